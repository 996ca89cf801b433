"""Times PyTorch on one guided evaluation of SD1.5's U-Net (random weights, f32, 64x64 latents, batch 2).

    pip install torch diffusers
    python benches/torch_unet.py

Run it in the same minute as `cargo bench -p sdq-benches --bench unet`: only the ratio of the two means anything.
"""

import time

import torch
from diffusers import UNet2DConditionModel


def main():
    unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64).eval()
    latents, text_states = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
    seconds = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            unet(latents, 500, text_states)
            seconds.append(time.perf_counter() - start)
    print(f"{torch.get_num_threads()} threads, after the first: best {min(seconds[1:]):.2f} s")


if __name__ == "__main__":
    main()
