"""Reference statistics in files: written, read, compared with, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gantk_eval import ArrayImages, DataError, UserError, evaluate
from gantk_eval.reference import (
    Moments,
    build_reference,
    holds_statistics,
    read_reference,
    write_reference,
)
from gantk_eval.reference_scores import allowed_by_statistics, evaluate_against_statistics


def test_which_metrics_statistics_allow() -> None:
    assert all(map(allowed_by_statistics, ("fid", "sfid", "fd_net", "fd_dinov2")))
    others = ("kid", "fd_pixel_pca", "fd_classifier", "fd_classifier_per_class", "fid_per_class", "precision_inception")
    assert not any(map(allowed_by_statistics, others))


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def test_a_file_may_have_any_name(tmp_path: Path, net: Path) -> None:
    path = net.rename(tmp_path / "my-vit-net.pt")
    found = build_reference(ArrayImages(pictures(50)), extractor=path)
    assert set(evaluate_against_statistics(ArrayImages(pictures(40, 1)), found, extractor=path).metrics) == {
        "fd_my-vit-net"
    }


@pytest.mark.parametrize("name", ["inception-v3-compat", "Inception v3 compat spatial", "lpips", "clip"])
def test_no_file_lends_its_scores_the_name_of_another_network(tmp_path: Path, net: Path, name: str) -> None:
    path = net.rename(tmp_path / f"{name}.pt")
    expected = {f"fd_own-{name.lower().replace(' ', '-')}"}
    real, fake = ArrayImages(pictures(50)), ArrayImages(pictures(40, 1))
    against = evaluate_against_statistics(fake, build_reference(real, extractor=path), extractor=path)
    assert set(against.metrics) == expected
    plain = evaluate(fake, real, extractor=path, metrics=list(expected), collapse=False)
    assert set(plain.metrics) == expected
    with pytest.raises(DataError, match="fid is of Inception's features, and the extractor is own-"):
        evaluate_against_statistics(fake, build_reference(real, extractor=path), extractor=path, metrics=["fid"])


BUILD = """
import numpy as np
from gantk_eval import ArrayImages
from gantk_eval.reference import build_reference
images = ArrayImages(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
print(build_reference(images, extractor={net!r}).fingerprint())
"""


def test_two_processes_build_the_same_from_the_cache_and_without(in_processes, net: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Cached features are on the first rank alone, and every rank has the statistics."""
    fingerprints = []
    for cache in ("one", "two", "two"):
        ended = in_processes(BUILD.format(net=str(net)), 1 if cache == "one" else 2, tmp_path / cache)
        assert all(code == 0 for code, _, _ in ended), ended
        fingerprints += [output.split()[-1] for _, output, _ in ended]
    assert len(fingerprints) == 5
    assert len(set(fingerprints[1:])) == 1


@pytest.fixture
def net(tmp_path: Path) -> Path:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)

    torch.jit.script(Net()).save(str(tmp_path / "net.pt"))
    return tmp_path / "net.pt"


def test_statistics_stand_for_the_images(tmp_path: Path, net: Path) -> None:
    reference, fake = ArrayImages(pictures(120)), ArrayImages(pictures(100, 1) // 2)
    write_reference(tmp_path / "a.npz", build_reference(reference, extractor=net))
    assert holds_statistics(tmp_path / "a.npz")
    found = read_reference(tmp_path / "a.npz")
    assert (found.count, found.made["extractor"], found.made["resize"]) == (120, "net", "its own")
    assert found.made["images_sha256"] == reference.fingerprint()
    with np.load(tmp_path / "a.npz") as file:  # as pytorch-fid and clean-fid read it
        features = torch.jit.load(str(net))(torch.from_numpy(reference.read(range(120))).permute(0, 3, 1, 2))
        assert np.allclose(file["mu"], features.double().mean(dim=0), rtol=1e-6)
        assert np.allclose(file["sigma"], np.cov(features.double().numpy(), rowvar=False), rtol=1e-5)
    mine = evaluate_against_statistics(fake, found, extractor=net)
    plain = evaluate(fake, reference, extractor=net, metrics=["fd_net"], collapse=False)
    assert mine.metrics["fd_net"]["value"] == pytest.approx(plain.metrics["fd_net"]["value"], rel=1e-9)
    assert mine.metrics["fd_net"]["standard_error"] == pytest.approx(
        plain.metrics["fd_net"]["standard_error"], rel=1e-6
    )
    assert mine.protocol["fingerprint"] == plain.protocol["fingerprint"]
    assert mine.verdict == "inconclusive"
    assert "statistics" in mine.collapse["reasons"][0]
    assert "fd_net" in mine.table()


def test_files_of_other_programs_are_read(tmp_path: Path, net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = build_reference(ArrayImages(pictures(120)), extractor=net)
    np.savez(tmp_path / "pytorch-fid.npz", mu=reference.features.mean, sigma=reference.features.covariance)
    adm = {
        "mu": reference.features.mean,
        "sigma": reference.features.covariance,
        "mu_s": np.zeros(3),
        "sigma_s": np.eye(3),
    }
    np.savez(tmp_path / "adm.npz", arr_0=pictures(5), **adm)
    fake = ArrayImages(pictures(100, 1))
    values = []
    for name in ("pytorch-fid.npz", "adm.npz"):
        found = read_reference(tmp_path / name)
        assert found.count is None
        report = evaluate_against_statistics(fake, found, extractor=net)
        values.append(report.metrics["fd_net"]["value"])
        assert "does not say how it was made" in capsys.readouterr().err
        assert "not said" in report.table()
    exact = evaluate_against_statistics(fake, reference, extractor=net).metrics["fd_net"]["value"]
    assert values == pytest.approx([exact, exact], rel=1e-12)
    np.savez(tmp_path / "images.npz", images=pictures(5))
    assert not holds_statistics(tmp_path / "images.npz")
    assert not holds_statistics(tmp_path)


def test_statistics_that_do_not_fit_are_refused(tmp_path: Path, net: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*none\.npz; give reference statistics"):
        read_reference(tmp_path / "none.npz")
    found = build_reference(ArrayImages(pictures(50)), extractor=net)
    fake = ArrayImages(pictures(40, 1))
    for key, value in (("weights_sha256", "0" * 64), ("resize", "bicubic"), ("precision", "bf16")):
        other = type(found)(found.features, 50, {**found.made, key: value}, "a.npz")
        with pytest.raises(DataError, match=f"a.npz was made with {key}"):
            evaluate_against_statistics(fake, other, extractor=net)
    with pytest.raises(DataError, match="allow fid and sfid alone; give the real images for kid"):
        evaluate_against_statistics(fake, found, extractor=net, metrics=["kid"])
    short = type(found)(Moments(found.features.mean[:4], found.features.covariance[:4, :4]), 50, {}, "b.npz")
    with pytest.raises(DataError, match=r"b\.npz is of 4 features, and net has 12"):
        evaluate_against_statistics(fake, short, extractor=net)
    with pytest.raises(DataError, match="holds 1 image; statistics need at least 2"):
        build_reference(ArrayImages(pictures(1)), extractor=net)
    with pytest.raises(DataError, match=r"is of images of 8×8, and .* is 16×16"):
        evaluate_against_statistics(ArrayImages(np.zeros((3, 16, 16, 3), np.uint8)), found, extractor=net)
    with pytest.raises(UserError, match="made from the reference's images"):
        build_reference(fake, extractor="pixel_pca")
    bad = {
        "shape": {"mu": np.zeros(3), "sigma": np.eye(4)},
        "nan": {"mu": np.full(3, np.nan), "sigma": np.eye(3)},
        "skew": {"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])},
        "spatial": {"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.zeros(2), "sigma_s": np.eye(3)},
        "count": {"mu": np.zeros(3), "sigma": np.eye(3), "count": np.array(1)},
        "made": {"mu": np.zeros(3), "sigma": np.eye(3), "gantk": np.array("3")},
        "complex": {"mu": np.zeros(3), "sigma": np.eye(3) * (1 + 0j)},
        "negative": {"mu": np.zeros(3), "sigma": -np.eye(3)},
        "pickle": {"mu": np.array([{}], dtype=object), "sigma": np.eye(3)},
    }
    for name, arrays in bad.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(DataError, match=f"{name}.npz"):
            read_reference(tmp_path / f"{name}.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "skew.npz").read_bytes()[:100])
    with pytest.raises(DataError, match=r"cut\.npz"):
        read_reference(tmp_path / "cut.npz")
    with pytest.raises(DataError, match="cannot write"):
        write_reference("/proc/nowhere/a.npz", found)


def test_the_command_builds_shows_and_compares(tmp_path: Path, net: Path) -> None:
    from typer.testing import CliRunner

    from gantk.cli import app

    np.savez(tmp_path / "real.npz", images=pictures(60))
    np.savez(tmp_path / "fake.npz", images=pictures(50, 1))
    run = CliRunner()
    out = tmp_path / "stats.npz"
    build = ["reference", "build", "--images", str(tmp_path / "real.npz"), "--out", str(out), "--extractor", str(net)]
    result = run.invoke(app, [*build, "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    shown = run.invoke(app, ["reference", "show", str(out), "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["images"] == 60
    assert "net" in run.invoke(app, ["reference", "show", str(out)], catch_exceptions=False).stdout
    refused = run.invoke(app, ["eval", "--images", str(tmp_path / "fake.npz"), "--reference", str(out), "--verify"])
    assert "`--verify` compares images" in str(refused.exception)
    score = ["eval", "--images", str(tmp_path / "fake.npz"), "--reference", str(out), "--extractor", str(net), "--json"]
    result = run.invoke(app, [*score, "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["metrics"]) == {"fd_net"}
    subset = run.invoke(app, [*score, "--device", "cpu", "--kid-subset-size", "50"])
    assert "`--kid-subset-size` goes with KID" in str(subset.exception)
