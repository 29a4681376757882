"""Environment variables that change what gantk does: which of them are set here, and what they do."""

from __future__ import annotations

import os

from gantk.doctor.page import Page

VARIABLES = {
    "GANTK_RUNS": "the folder of the runs, instead of ./runs",
    "GANTK_CACHE": "the folder of decoded images, features and weights, instead of ~/.cache/gantk",
    "GANTK_WEIGHTS": "where weights of feature extractors are looked for first",
    "GANTK_INCEPTION_WEIGHTS": "Inception weights of your own",
    "GANTK_DINOV2_WEIGHTS": "DINOv2's weights",
    "GANTK_CLIP_WEIGHTS": "CLIP's weights",
    "GANTK_OFFLINE": "1: neither the hub nor a server of weights is asked",
    "HF_HUB_OFFLINE": "1: as GANTK_OFFLINE",
    "HF_DATASETS_OFFLINE": "1: as GANTK_OFFLINE",
    "TRANSFORMERS_OFFLINE": "1: as GANTK_OFFLINE",
    "HF_HOME": "the Hugging Face cache: datasets, and weights that are looked for there",
    "HF_HUB_CACHE": "the part of the Hugging Face cache that holds downloads",
    "HF_DATASETS_CACHE": "the part of the Hugging Face cache that holds datasets",
    "HF_ENDPOINT": "another address of the hub",
    "HF_TOKEN": "the key for private and gated datasets",
    "TORCH_HOME": "torch.hub's cache, where weights are looked for",
    "XDG_CACHE_HOME": "the folder of all caches, instead of ~/.cache",
    "WANDB_API_KEY": "with `tracking.wandb: auto`, runs are logged to W&B",
    "WANDB_MODE": "online, offline or disabled, where `tracking.wandb` is auto",
    "WANDB_DISABLED": "true: as WANDB_MODE=disabled",
    "WANDB_PROJECT": "the project, where `tracking.wandb_project` is not set",
    "WANDB_ENTITY": "the entity, where `tracking.wandb_entity` is not set",
    "WANDB_SILENT": "no effect: W&B says one line in any case, which is gantk's",
    "WANDB_DIR": "no effect: W&B's files are kept in the run folder",
    "WANDB_NAME": "no effect: a W&B run is named after the run",
    "WANDB_RUN_GROUP": "the group of the W&B run",
    "WANDB_TAGS": "the tags of the W&B run",
    "WANDB_NOTES": "the notes of the W&B run",
    "TQDM_DISABLE": "1: no progress, neither bars nor lines",
    "NO_COLOR": "nothing to do: gantk prints no colours",
    "CUDA_VISIBLE_DEVICES": "the GPUs that there are; empty: none",
    "OMP_NUM_THREADS": "threads of a process on the CPU, where `train.threads` is not set",
    "ACCELERATE_USE_CPU": "true: launched processes keep off the GPUs",
    "HTTP_PROXY": "the proxy of downloads",
    "HTTPS_PROXY": "the proxy of downloads",
    "NO_PROXY": "addresses without a proxy",
}
"""Each variable with its effect, as `docs/environment.md` has them."""
_SECRET = ("WANDB_API_KEY", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY")


def environment_variables(page: Page) -> None:
    """One line for each variable that is set; what is secret in one is not shown."""
    found = [name for name in VARIABLES if name in os.environ]
    if not found:
        page.say("ok", "environment", "none of the variables of docs/environment.md is set")
    for name in found:
        value = "(set)" if name in _SECRET else os.environ[name]
        page.say("ok", "environment", f"{name}={value} ({VARIABLES[name]})")
