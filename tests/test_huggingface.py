"""The callback for ``transformers.Trainer``: same run, same tags, resumed without a jump."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import transformers as hf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import Dataset

from shockwatch.errors import ShockwatchWarning
from shockwatch.huggingface import ShockTrainerCallback


class Patient(hf.TrainerCallback):
    """Waits for the analysis at each snapshot: these steps take milliseconds, those of a real run do not."""

    def __init__(self, watch):
        self.watch = watch

    def on_step_end(self, args, state, control, **kwargs):
        assert self.watch._monitor._session.settle(100)


class Words(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.words = torch.randint(0, 23, (32, 8), generator=generator)

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        return {"input_ids": self.words[index], "labels": self.words[index]}


class Images(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(32, 3, 8, 8, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": index % 5}


def gpt2():
    config = hf.GPT2Config(
        vocab_size=23, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
    )  # dropout stays on
    return hf.GPT2LMHeadModel(config), Words()


def vit():
    config = hf.ViTConfig(
        hidden_size=8, intermediate_size=12, num_attention_heads=2, num_hidden_layers=1, image_size=8,
        patch_size=4, num_labels=5,
    )  # fmt: skip
    return hf.ViTForImageClassification(config), Images()


def train(build, folder, callbacks, resume=None, **changes):
    """A run of 12 steps of SGD; the model, and everything random afterwards."""
    torch.manual_seed(0)
    model, data = build()
    options = {
        "max_steps": 12, "per_device_train_batch_size": 8, "learning_rate": 0.05, "optim": "sgd", "use_cpu": True,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "gradient_accumulation_steps": 2, "seed": 0,
        **changes,
    }  # fmt: skip
    arguments = hf.TrainingArguments(str(folder), **options)
    trainer = hf.Trainer(
        model, arguments, train_dataset=data, callbacks=[*callbacks, *map(Patient, callbacks)]
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def scalars(folder):
    events = EventAccumulator(str(folder / "runs" / "shockwatch")).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("build", [gpt2, vit])
def test_a_trainer_is_watched_and_not_changed(build, tmp_path):
    watch = ShockTrainerCallback(every_n_steps=4, probe=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ShockwatchWarning)
        watched = train(build, tmp_path / "a", [watch])
    state = torch.get_rng_state()
    plain = train(build, tmp_path / "b", [])
    assert torch.equal(state, torch.get_rng_state())
    for (name, ours), theirs in zip(
        watched.model.state_dict().items(), plain.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    seen = scalars(tmp_path / "a")
    assert [step for step, _ in seen["quotient/norm"]] == [1, 4, 8, 12]
    assert {"shock/lambda_min", "shock/proximity", "phase/state", "raw/norm"} <= set(seen)
    assert all(math.isfinite(value) for _, value in seen["shock/lambda_max"])
    assert seen["shockwatch/errors"][-1][1] == 0
    assert not watched.model._forward_hooks


def test_symmetries_are_found(tmp_path):
    watch = ShockTrainerCallback(every_n_steps=4, probe="off")
    train(gpt2, tmp_path, [watch])
    assert any(tag.startswith("block/") for tag in watch.values)
    assert watch.alerts == []


def test_a_resumed_run_goes_on(tmp_path):
    whole = ShockTrainerCallback(every_n_steps=4, probe="off")
    train(gpt2, tmp_path / "whole", [whole])
    first = ShockTrainerCallback(every_n_steps=4, probe="off")
    train(gpt2, tmp_path / "cut", [first], save_strategy="steps", save_steps=6, max_steps=12)
    assert (tmp_path / "cut" / "checkpoint-6" / "shockwatch.pt").is_file()
    torch.load(tmp_path / "cut" / "checkpoint-6" / "shockwatch.pt", weights_only=True)
    second = ShockTrainerCallback(every_n_steps=4, probe="off")
    resumed = train(gpt2, tmp_path / "cut", [second], resume=str(tmp_path / "cut" / "checkpoint-6"))
    assert resumed.state.global_step == 12
    seen = scalars(tmp_path / "cut")
    assert sorted({step for step, _ in seen["quotient/path_length"]})[-2:] == [8, 12]
    for tag in ("quotient/path_length", "quotient/distance_from_start", "quotient/norm"):
        assert second.values[tag] == pytest.approx(whole.values[tag], rel=1e-5), tag


def test_a_damaged_state_costs_one_warning(tmp_path):
    train(
        gpt2,
        tmp_path,
        [ShockTrainerCallback(every_n_steps=4, probe="off")],
        save_strategy="steps",
        save_steps=6,
    )
    checkpoint = tmp_path / "checkpoint-6"
    (checkpoint / "shockwatch.pt").write_bytes(b"damaged")
    watch = ShockTrainerCallback(every_n_steps=4, probe="off")
    with pytest.warns(ShockwatchWarning, match="begins anew"):
        train(gpt2, tmp_path, [watch], resume=str(checkpoint))
    assert math.isfinite(watch.values["quotient/norm"])


def test_a_model_without_a_loss_says_so_once(tmp_path):
    class Trainer(hf.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            logits = model(**inputs).logits
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    torch.manual_seed(0)
    model, data = gpt2()
    watch = ShockTrainerCallback(every_n_steps=2, probe="off")
    arguments = hf.TrainingArguments(
        str(tmp_path), max_steps=4, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True
    )
    with pytest.warns(ShockwatchWarning, match="pass loss_fn="):
        Trainer(model, arguments, train_dataset=data, callbacks=[watch]).train()
    assert math.isfinite(watch.values["raw/norm"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps=0"),
        ({"budget": 2.0}, "budget=2.0"),
        ({"loss_fn": 3}, "loss_fn=3"),
        ({"writer": 3}, "writer=int"),
    ],
)
def test_bad_options_are_refused_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        ShockTrainerCallback(**options)
