"""Trains the demo model from nothing: `python demo/train.py --out DIR`.

Stages, each resumable (run the same command again after a stop):

  1. clip    a small CLIP on captions and pictures
  2. vae     the autoencoder, with the CLIP image tower as perceptual loss
  3. unet    the diffusion model on the VAE's latents, text encoder included

then the export to DIR/model, a diffusers directory.
"""

import argparse
from pathlib import Path

import torch

import common
from clip import text_encoder, train_clip
from data import DEFAULT_FONT, Composer
from export import export, new_pipeline
from things import DEFAULT_COUNT
from tokenizer import load_tokenizer, write_tokenizer
from unet import Denoiser, new_scheduler, new_unet, train_unet
from vae import load_vae, measure_vae, train_vae


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, logs and the model")
    parser.add_argument("--things", type=int, default=DEFAULT_COUNT, help="rows of the table of things to learn")
    parser.add_argument("--clip-steps", type=int, default=300)
    parser.add_argument("--vae-steps", type=int, default=1600)
    parser.add_argument("--unet-steps", type=int, default=4500)
    parser.add_argument("--unet-decay", type=int, default=1300, help="last steps, in which the rate falls")
    parser.add_argument("--batch", type=int, default=32, help="pictures per U-Net step")
    parser.add_argument("--guidance", type=float, default=3.0, help="default guidance scale written into the export")
    parser.add_argument("--export-now", action="store_true", help="only export the last checkpoint, to DIR/model")
    parser.add_argument("--font", default=DEFAULT_FONT)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def load_run(folder):
    """The pipeline of a run's last checkpoint, finished or not."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    model = Denoiser(new_unet(), text_encoder(tokenizer))
    state = torch.load(folder / "unet" / "checkpoint.pt", weights_only=False)
    model.load_state_dict(state["parts"]["ema"]["module"])
    return new_pipeline(load_vae(folder / "vae"), model.text, tokenizer, model.unet, new_scheduler())


def write_model(args, pipeline):
    weights = export(args.out / "model", pipeline, args.out / "tokenizer", args.things, args.guidance)
    print(f"exported {weights:,} weights to {args.out / 'model'}")


def main():
    args = arguments()
    common.start(args.seed, args.threads)
    if args.export_now:
        return write_model(args, load_run(args.out))

    if not (args.out / "tokenizer").exists():
        write_tokenizer(args.out / "tokenizer")
    tokenizer = load_tokenizer(args.out / "tokenizer")

    def composer(stage):
        return Composer(args.things, seed=(args.seed, stage), font_path=args.font)

    clip = train_clip(args.out / "clip", tokenizer, composer(1), args.clip_steps)
    workers = common.Workers(args.threads, shares=args.threads)
    vae = train_vae(args.out / "vae", composer(2), clip.image, workers, args.vae_steps)
    print(f"vae: {measure_vae(vae, composer(0)):.2f} dB, scaling factor {vae.config.scaling_factor}", flush=True)
    model = train_unet(
        args.out / "unet", vae, clip.text, tokenizer, composer(3), workers, args.unet_steps, args.unet_decay, args.batch
    )
    write_model(args, new_pipeline(vae, model.text, tokenizer, model.unet, new_scheduler()))


if __name__ == "__main__":
    main()
