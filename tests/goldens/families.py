"""Makes a tiny pipeline of every family beside Stable Diffusion 1, and the goldens that diffusers computes with them.

    python tests/goldens/families.py [NAME…]

Each goes to `tests/goldens/NAME/`, as `pipelines.py` has it. What is peculiar to each stands at `FAMILIES`.
"""

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import lively
import vocabulary
from pipelines import APPLE, BAD, FOX, vae_config
from record import SCHEDULERS, Recorder, case, quiet

HERE = Path(__file__).parent
PROMPTS = ["a red apple", "the quick brown fox", "", APPLE, BAD, FOX]


@dataclass
class Family:
    """What one pipeline is made of. Configs are those of the diffusers and transformers classes."""

    pipeline: str
    seed: int
    unet: dict
    vae: dict
    scheduler: dict
    text_encoder: dict | None = None
    text_encoder_2: dict | None = None
    tokenizers: dict = field(default_factory=lambda: {"merges": 24, "pad_token": vocabulary.END})
    index: dict = field(default_factory=dict)
    random_share: float = lively.RANDOM_SHARE
    latent_sizes: list = field(default_factory=lambda: [(16, 16), (10, 14)])
    cases: list = field(default_factory=list)


def text_config(width: int, layers: int, heads: int, act: str, **options) -> dict:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 77,
        "hidden_act": act,
        **options,
    }


def unet_config(widths: tuple, kinds: str, text_width: int, heads, **options) -> dict:
    """`kinds` has an x for every level that attends and a dot for every other, finest first."""
    down = tuple("CrossAttnDownBlock2D" if kind == "x" else "DownBlock2D" for kind in kinds)
    up = tuple("CrossAttnUpBlock2D" if kind == "x" else "UpBlock2D" for kind in reversed(kinds))
    return {
        "sample_size": 16,
        "block_out_channels": widths,
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": 1,
        "cross_attention_dim": text_width,
        "attention_head_dim": heads,
        "norm_num_groups": 8,
        **options,
    }


def added(numbers: int, pooled: int, embed: int = 8) -> dict:
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": embed,
        "projection_class_embeddings_input_dim": pooled + numbers * embed,
    }


def scheduler(name: str, **options) -> dict:
    return {
        "_class_name": name,
        "_diffusers_version": "0.21.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        **options,
    }


DDIM = {"clip_sample": False, "set_alpha_to_one": False}
VAE = vae_config((8, 16), layers=1, sample_size=32, scaling_factor=0.18215)
XL_VAE = vae_config((8, 16), layers=1, sample_size=32, scaling_factor=0.13025, force_upcast=True)

# Pooled prompts and sizes would drown beside the timestep, and the timestep in a deep network.
XL_GAINS = [(r"time_emb_proj", 2.0), (r"add_embedding", 2.5), (r"attn2\.to_out\.0$", 0.8)]

FAMILIES = {
    # OpenCLIP's activation, heads a level, linear projections, velocity, no noise left at the last timestep.
    "sd2": Family(
        pipeline="StableDiffusionPipeline",
        seed=11,
        text_encoder=text_config(32, 3, 4, "gelu"),
        tokenizers={"merges": 24, "pad_token": "!"},
        unet=unet_config((16, 24), "xx", 32, (2, 3), use_linear_projection=True, upcast_attention=True),
        vae=VAE,
        scheduler=scheduler(
            "DDIMScheduler",
            **DDIM,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        ),
        cases=[
            case(APPLE, "ddim", 10, 32, 32, 1, guidance_rescale=0.7),
            case(FOX, "ddim", 5, 24, 40, 2, negative_prompt=BAD),
            case(FOX, "euler", 10, 32, 24, 3, negative_prompt=BAD, guidance_rescale=0.3),
        ],
    ),
    # Two text encoders with paddings of their own, pooled prompt and sizes, several transformer blocks.
    "sdxl": Family(
        pipeline="StableDiffusionXLPipeline",
        seed=112,
        random_share=0.5,
        text_encoder=text_config(16, 2, 2, "quick_gelu"),
        text_encoder_2=text_config(24, 3, 3, "gelu", projection_dim=20),
        unet=unet_config(
            (16, 24), ".x", 40, (2, 3), transformer_layers_per_block=(1, 2), **added(6, 20)
        ),
        vae=XL_VAE,
        scheduler=scheduler("EulerDiscreteScheduler", interpolation_type="linear", use_karras_sigmas=False),
        index={"force_zeros_for_empty_prompt": True},
        cases=[
            case(APPLE, "euler", 10, 32, 32, 4, guidance_scale=5.0),
            case(FOX, "euler", 5, 24, 40, 5, negative_prompt=BAD, guidance_scale=5.0),
            case(APPLE, "euler", 5, 40, 24, 6, guidance_rescale=0.5, guidance_scale=5.0),
            case(FOX, "euler_ancestral", 1, 32, 32, 7, guidance_scale=0.0),
        ],
    ),
    # The second text encoder alone, five numbers with a score that differs between prompt and negative prompt.
    "refiner": Family(
        pipeline="StableDiffusionXLImg2ImgPipeline",
        seed=23,
        text_encoder_2=text_config(24, 2, 3, "gelu", projection_dim=20),
        unet=unet_config((16, 24), ".x", 24, (2, 3), transformer_layers_per_block=2, **added(5, 20)),
        vae=XL_VAE,
        scheduler=scheduler("EulerDiscreteScheduler", interpolation_type="linear", use_karras_sigmas=False),
        index={"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
        cases=[
            case(APPLE, "euler", 10, 32, 32, 8, strength=0.5, guidance_scale=5.0),
            case(FOX, "ddim", 10, 24, 40, 9, strength=0.3, negative_prompt=BAD, guidance_scale=5.0),
        ],
    ),
    # The middle without attention, transformers of no and of unequal blocks, latents with a mean and a deviation: SSD-1B,
    # Segmind's Vega, Playground 2.5.
    "ssd": Family(
        pipeline="StableDiffusionXLPipeline",
        seed=14,
        text_encoder=text_config(16, 2, 2, "quick_gelu"),
        text_encoder_2=text_config(24, 2, 3, "gelu", projection_dim=20),
        unet=unet_config(
            (16, 16, 24),
            ".xx",
            40,
            (2, 2, 3),
            mid_block_type="UNetMidBlock2D",
            layers_per_block=(1, 2, 1),
            transformer_layers_per_block=[[], [0, 1], [1]],
            reverse_transformer_layers_per_block=[[2, 1], [1, 0, 1], 1],
            **added(6, 20),
        ),
        vae={**XL_VAE, "latents_mean": [-1.6574, 1.886, -1.383, 2.5155], "latents_std": [8.4, 5.9, 6.5, 5.2]},
        scheduler=scheduler("EulerDiscreteScheduler", interpolation_type="linear", use_karras_sigmas=False),
        index={"force_zeros_for_empty_prompt": True},
        cases=[
            case(APPLE, "euler", 10, 32, 32, 10, guidance_scale=5.0),
            case(FOX, "ddim", 5, 24, 40, 11, negative_prompt=BAD, guidance_scale=5.0),
        ],
    ),
    # No middle at all, layers a level, the tiny autoencoder, one step: SDXS, BK-SDM.
    "sdxs": Family(
        pipeline="StableDiffusionPipeline",
        seed=115,
        random_share=0.5,
        text_encoder=text_config(32, 2, 4, "gelu"),
        unet=unet_config(
            (16, 24), ".x", 32, (2, 3), mid_block_type=None, layers_per_block=(1, 2)
        ),
        vae={
            "_class_name": "AutoencoderTiny",
            "encoder_block_out_channels": (16, 16, 16),
            "decoder_block_out_channels": (16, 16, 16),
            "num_encoder_blocks": (1, 2, 1),
            "num_decoder_blocks": (2, 1, 1),
            "scaling_factor": 1.0,
        },
        scheduler=scheduler("EulerDiscreteScheduler", timestep_spacing="trailing"),
        latent_sizes=[(8, 8), (6, 10)],
        cases=[
            case(APPLE, "euler", 1, 64, 64, 12, guidance_scale=0.0),
            case(FOX, "ddim", 5, 40, 56, 13, negative_prompt=BAD, guidance_scale=4.0),
        ],
    ),
    # Told its guidance scale, and drawn by other schedulers than its own too.
    "lcm": Family(
        pipeline="LatentConsistencyModelPipeline",
        seed=16,
        text_encoder=text_config(32, 2, 4, "quick_gelu"),
        unet=unet_config((16, 24), "xx", 32, 4, time_cond_proj_dim=16),
        vae=VAE,
        scheduler=scheduler(
            "LCMScheduler", **DDIM, original_inference_steps=50, timestep_scaling=10.0, rescale_betas_zero_snr=False
        ),
        cases=[
            case(APPLE, "ddim", 5, 32, 32, 14, guidance_scale=8.5),
            case(FOX, "euler", 5, 24, 40, 15, guidance_scale=1.3),
            case(APPLE, "lcm", 4, 32, 32, 16, guidance_scale=8.5),
            case(FOX, "lcm", 1, 24, 40, 17, guidance_scale=2.0),
        ],
    ),
    # Shown a mask and the picture without what is to be painted.
    "inpaint": Family(
        pipeline="StableDiffusionInpaintPipeline",
        seed=17,
        text_encoder=text_config(32, 2, 4, "quick_gelu"),
        unet=unet_config((16, 16), "xx", 32, 4, in_channels=9),
        vae=VAE,
        scheduler=scheduler("DDIMScheduler", **DDIM),
        cases=[
            case(APPLE, "ddim", 10, 32, 32, 18, mask=True, strength=1.0),
            case(FOX, "euler", 10, 24, 40, 19, mask=True, strength=0.6, negative_prompt=BAD),
        ],
    ),
    # Shown the picture that it edits, guided by it too.
    "pix2pix": Family(
        pipeline="StableDiffusionInstructPix2PixPipeline",
        seed=18,
        text_encoder=text_config(32, 2, 4, "quick_gelu"),
        unet=unet_config((16, 16), "xx", 32, 4, in_channels=8),
        vae=VAE,
        scheduler=scheduler("EulerAncestralDiscreteScheduler"),
        cases=[
            case(APPLE, "euler_ancestral", 10, 32, 32, 20, image_guidance_scale=1.5),
            case(FOX, "euler", 5, 24, 40, 21, image_guidance_scale=1.2, guidance_scale=4.0, negative_prompt=BAD),
        ],
    ),
}


def make_tokenizer(folder: Path, merges: int, pad_token: str) -> CLIPTokenizer:
    vocabulary.write(folder, merges=merges, pad_token=pad_token, model_max_length=77)
    return CLIPTokenizer.from_pretrained(folder)


def make_text_encoder(config: dict, tokenizer: CLIPTokenizer, eos: int | None = None):
    size = len(tokenizer)
    # Published files of first text encoders say 2, which is not the end token's id.
    special = {"bos_token_id": size - 2, "eos_token_id": eos or size - 1, "pad_token_id": tokenizer.pad_token_id}
    model = CLIPTextModelWithProjection if "projection_dim" in config else CLIPTextModel
    return model(CLIPTextConfig(vocab_size=size, **special, **config)).eval()


def make_vae(config: dict):
    config = dict(config)
    tiny = config.pop("_class_name", None) == "AutoencoderTiny"
    return (AutoencoderTiny if tiny else AutoencoderKL)(**config).eval()


def condition(pipe, prompts: list[str], guidance_scale: float = 7.5) -> dict:
    """What the U-Net reads beside latents and timestep, one row a prompt."""
    config = pipe.unet.config
    if config.addition_embed_type is None:
        # Every pipeline of Stable Diffusion encodes alike, but not all have a function for it of one signature.
        sd = diffusers.StableDiffusionPipeline.encode_prompt
        kwargs = {"encoder_hidden_states": sd(pipe, prompts, "cpu", 1, False)[0]}
        if config.time_cond_proj_dim is not None:
            weight = torch.tensor([guidance_scale - 1] * len(prompts))
            kwargs["timestep_cond"] = pipe.get_guidance_scale_embedding(weight, config.time_cond_proj_dim)
        return kwargs
    states, _, pooled, _ = pipe.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
    size = [32.0, 24.0, 0.0, 0.0]
    numbers = size + ([6.0] if pipe.config.get("requires_aesthetics_score") else [32.0, 24.0])
    added_cond_kwargs = {"text_embeds": pooled, "time_ids": torch.tensor([numbers] * len(prompts))}
    return {"encoder_hidden_states": states, "added_cond_kwargs": added_cond_kwargs}


def rows_of(kwargs: dict, rows: torch.Tensor) -> dict:
    return {
        key: rows_of(value, rows) if isinstance(value, dict) else value[rows] for key, value in kwargs.items()
    }


def normalise_decoder(vae: AutoencoderTiny, generator: torch.Generator) -> None:
    """Without norms, random layers add up: brings the pictures into the range that is seen."""
    conv = vae.decoder.layers[-1]
    with torch.no_grad():
        pixels = vae.decode(lively.normal((1, 4, 8, 8), generator)).sample
        conv.weight *= 0.5 / pixels.std()
        conv.bias.copy_(0.5 + 0.1 * lively.normal((3,), generator))


def build(family: Family, model: Path) -> None:
    """Makes the pipeline's diffusers directory; weights are stored in f16."""
    generator = torch.Generator().manual_seed(family.seed)
    components = {"unet": UNet2DConditionModel(**family.unet).eval(), "vae": make_vae(family.vae)}
    is_xl = family.text_encoder_2 is not None
    paddings = {"": family.tokenizers, "_2": {**family.tokenizers, "pad_token": "!"}}
    for suffix, config in (("", family.text_encoder), ("_2", family.text_encoder_2)):
        if config is not None:
            tokenizer = make_tokenizer(model / f"tokenizer{suffix}", **paddings[suffix])
            # Both rules by which the end of a prompt is found.
            eos = 2 if family.pipeline == "StableDiffusionXLImg2ImgPipeline" else None
            components[f"tokenizer{suffix}"] = tokenizer
            components[f"text_encoder{suffix}"] = make_text_encoder(config, tokenizer, eos)
        elif is_xl:
            components |= {f"tokenizer{suffix}": None, f"text_encoder{suffix}": None}
    for name in ("text_encoder", "text_encoder_2", "unet", "vae"):
        if components.get(name) is not None:
            lively.randomise(components[name], generator, XL_GAINS if is_xl else ())
    if isinstance(components["vae"], AutoencoderTiny):
        normalise_decoder(components["vae"], generator)
    lively.strengthen_deep_levels(components["unet"])
    scheduler_class = getattr(diffusers, family.scheduler["_class_name"])
    components["scheduler"] = scheduler_class.from_config(family.scheduler)
    options = {"add_watermarker": False, **family.index} if is_xl else {"requires_safety_checker": False}
    if not is_xl:
        components |= {"safety_checker": None, "feature_extractor": None}
    pipe = getattr(diffusers, family.pipeline)(**components, **options)
    with torch.no_grad():
        kwargs = condition(pipe, PROMPTS)
    training = diffusers.DDPMScheduler.from_config(
        {**family.scheduler, "_class_name": "DDPMScheduler", "rescale_betas_zero_snr": False}
    )
    states = kwargs["encoder_hidden_states"]
    fit = lively.fit_last_convolution
    fit(pipe.unet, training, states, generator, lambda rows: rows_of(kwargs, rows), family.random_share)
    tokenizer_files = {p: p.read_bytes() for p in model.glob("tokenizer*/*")}
    pipe.to(torch.float16).save_pretrained(model)
    for path in model.glob("tokenizer*/*"):
        path.unlink()
    for path, content in tokenizer_files.items():
        path.write_bytes(content)
    (model / "scheduler/scheduler_config.json").write_text(json.dumps(family.scheduler, indent=2) + "\n")


class FamilyRecorder(Recorder):
    """Records what pipelines of any class do."""

    @torch.no_grad()
    def states(self, prompts: list[str]) -> None:
        """`text_states`, and `pooled` where there is one."""
        for i, prompt in enumerate(prompts):
            kwargs = condition(self.pipe, [prompt])
            tensors = {"text_states": kwargs["encoder_hidden_states"][0]}
            if "added_cond_kwargs" in kwargs:
                tensors["pooled"] = kwargs["added_cond_kwargs"]["text_embeds"][0]
            self.add(f"text_states.{i}", "text_states", {"prompt": prompt}, **tensors)

    @torch.no_grad()
    def conditioned(self, sizes: list[tuple[int, int]], prompts: list[str]) -> None:
        """The U-Net alone, as `noise_pred` of the base class records it, with all that it is told."""
        generator = torch.Generator().manual_seed(7)
        unet = self.pipe.unet
        kwargs = condition(self.pipe, prompts, guidance_scale=4.2)
        for i, (size, timestep) in enumerate(zip(sizes, [999, 1])):
            latents = torch.randn((len(prompts), unet.config.in_channels, *size), generator=generator)
            noise_pred = unet(latents, timestep, **kwargs).sample
            settings = {"timestep": timestep, "prompts": prompts}
            self.add(f"unet.{i}", "unet", settings, latents=latents, noise_pred=noise_pred)
        self.tensors["unet.text_states"] = kwargs["encoder_hidden_states"]
        if "added_cond_kwargs" in kwargs:
            told = kwargs["added_cond_kwargs"]
            numbers = unet.add_time_proj(told["time_ids"].flatten()).reshape(len(prompts), -1)
            self.tensors["unet.added"] = torch.cat([told["text_embeds"], numbers], dim=1)

    @torch.no_grad()
    def autoencoder(self, sizes: list[tuple[int, int]]) -> None:
        """`vae` of the base class, also for autoencoders that give no distribution."""
        if isinstance(self.pipe.vae, AutoencoderKL):
            self.vae(sizes)
            return
        generator = torch.Generator().manual_seed(8)
        vae = self.pipe.vae
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        for i, (height, width) in enumerate(sizes):
            pixels = torch.rand((1, 3, height * factor, width * factor), generator=generator) * 2 - 1
            self.add(f"encode.{i}", "encode", {}, pixels=pixels, mean=vae.encode(pixels).latents)
            latents = 2 * torch.randn((1, 4, height, width), generator=generator)
            self.add(f"decode.{i}", "decode", {}, latents=latents, pixels=vae.decode(latents).sample)

    def run(self, settings: dict) -> None:
        """From the seed alone, or from a picture made from it: the last latents and the picture."""
        steps = []

        def keep_latents(_pipe, _step, _timestep, tensors):
            steps.append(tensors["latents"])
            return tensors

        pipe, scheduler_name = self.pipe, settings["scheduler"]
        if scheduler_name == "lcm":
            pipe.scheduler = diffusers.LCMScheduler.from_config(self.scheduler_config)
        else:
            if isinstance(pipe, diffusers.LatentConsistencyModelPipeline):
                # The same networks; that class takes no scheduler but its own.
                pipe = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
                pipe.set_progress_bar_config(disable=True)
            pipe.scheduler = SCHEDULERS[scheduler_name].from_config(self.scheduler_config)
        kwargs = {
            "num_inference_steps": settings["steps"],
            "guidance_scale": settings["guidance_scale"],
            "generator": torch.Generator("cpu").manual_seed(settings["seed"]),
            "callback_on_step_end": keep_latents,
            "output_type": "np",
        }
        if scheduler_name != "lcm":
            kwargs["negative_prompt"] = settings["negative_prompt"] or None
        for key in ("strength", "image_guidance_scale", "guidance_rescale"):
            if key in settings:
                kwargs[key] = settings[key]
        tensors = {}
        width, height = settings["width"], settings["height"]
        if "strength" in settings or "image_guidance_scale" in settings:
            noise = torch.Generator().manual_seed(settings["seed"] + 1000)
            coarse = torch.rand((1, 3, 4, 4), generator=noise)
            picture = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
            tensors["init_image"] = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8)
            kwargs["image"] = diffusers.utils.numpy_to_pil(tensors["init_image"].numpy().astype("float32") / 255)[0]
        if settings.get("mask"):
            mask = torch.zeros((height, width), dtype=torch.uint8)
            mask[height // 4 : height // 2 + 3, width // 3 : width - 5] = 255
            tensors["mask"] = mask
            from PIL import Image

            kwargs["mask_image"] = Image.fromarray(mask.numpy(), "L")
        if not tensors or settings.get("mask"):
            kwargs |= {"width": width, "height": height}
        pictures = pipe(settings["prompt"], **kwargs).images
        tensors["picture"] = torch.from_numpy((pictures[0] * 255).round().astype("uint8"))
        name = f"end_to_end.{len(self.manifest.get('end_to_end', []))}"
        self.add(name, "end_to_end", settings, latents=steps[-1], **tensors)


def record(name: str, family: Family, folder: Path) -> None:
    """Loads the directory as a user would and records what it does."""
    pipe = getattr(diffusers, family.pipeline).from_pretrained(folder / "model", dtype=torch.float32)
    conditions = {
        what: condition(pipe, [prompt])
        for what, prompt in (("first", PROMPTS[0]), ("prompt", PROMPTS[1]), ("empty prompt", PROMPTS[2]))
    }
    first = conditions["first"]
    if "added_cond_kwargs" in first:
        told = first["added_cond_kwargs"]
        for key in told:
            conditions[key] = {**first, "added_cond_kwargs": {**told, key: told[key] * 0.5}}
    if "timestep_cond" in first:
        conditions["guidance"] = condition(pipe, [PROMPTS[0]], guidance_scale=2.0)
    report = lively.assert_lively(pipe, torch.Generator().manual_seed(family.seed), conditions)
    print(f"{name}: change of the U-Net's output by {report}")
    recorder = FamilyRecorder(pipe, name)
    recorder.states([APPLE, "", FOX])
    recorder.conditioned(family.latent_sizes, [APPLE, FOX])
    if family.vae is not VAE:
        recorder.autoencoder(family.latent_sizes)
    for settings in family.cases:
        recorder.run(settings)
    recorder.write(folder)


def main() -> None:
    torch.set_num_threads(1)
    quiet()
    for name in sys.argv[1:] or FAMILIES:
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        build(FAMILIES[name], folder / "model")
        record(name, FAMILIES[name], folder)


if __name__ == "__main__":
    main()
