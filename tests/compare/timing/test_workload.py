"""What is timed of a method is the real thing: steps of the loop, and every image by the method's own bound."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.training.loop import SilentObserver, TrainingJob, load_weights, train
from abscert_plugin.training.objective import Moment, Objective
from abscert_plugin.training.run import TrainingData, prepare_folder, run_training
from baselines.adv_ibp import AdvIbp, Phase
from baselines.crown_ibp import CrownIbp
from baselines.lbp import Lbp
from compare.plans.planned_run import Run
from compare.running.defaults import one_epoch, training_spec
from compare.timing import workload
from compare.timing.time_records import Kind, Setting


def run_of(method: str, **options: Any) -> Run:
    cells = 2 if method in ("abstrain", "reachable") else None
    return Run(data="digits", network="fc-3-code", method=method, radius="0.05", cells=cells, batch_size=64, **options)


@dataclass
class Watched:
    """An objective that writes down what it is asked."""

    inner: Objective
    moments: list[Moment] = field(default_factory=list)
    labels: list[torch.Tensor] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def claim(self) -> str:
        return self.inner.claim

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner.encode(images)

    def loss(
        self, network: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, moment: Moment
    ) -> torch.Tensor:
        self.moments.append(moment)
        self.labels.append(labels)
        return self.inner.loss(network, inputs, labels, moment)

    def margins(self, network: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.inner.margins(network, inputs, labels)


@pytest.mark.parametrize("method", ["abstrain", "reachable", "crown-ibp", "llm", "lbp", "adv-ibp", "sabr"])
def test_a_timed_block_is_a_training_by_the_loop(method: str, tmp_path: Path) -> None:
    steps = 5
    spec = one_epoch(training_spec(run_of(method), None))
    data = TrainingData(
        workload.training_images(load_data("digits", Split.TRAIN), steps * 64),
        load_data("digits", Split.VALIDATION).first(8),
    )
    prepare_folder(tmp_path, resume=False)
    trained = run_training(spec, data, tmp_path, SilentObserver())
    watched = Watched(trained.objective)
    timed = workload.training_block(spec, data, replace(trained, objective=watched), tmp_path)

    other = trained.config.build(1)
    load_weights(other, trained.checkpoint.best)
    start = {name: value.clone() for name, value in other.state_dict().items()}
    objective = spec.method.build(spec.grid, data.training.levels, trained.device)
    job = TrainingJob(
        other, objective, data.training, data.validation, spec.training, trained.device, tmp_path, {"of": "the test"}
    )
    torch.manual_seed(1)  # blocks depend on no state but the weights
    train(job, None, SilentObserver())
    for _ in range(2):
        assert timed() > 0
        for name, value in trained.network.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=0, atol=0)
    assert any(not torch.equal(value, start[name]) for name, value in other.state_dict().items())

    assert [moment.step for moment in watched.moments] == 2 * list(range(steps))
    assert {(moment.steps_per_epoch, moment.epochs) for moment in watched.moments} == {(steps, 1)}
    seen = torch.cat(watched.labels[:steps]).tolist()
    assert Counter(seen) == Counter(data.training.labels.tolist())
    assert len(seen) == steps * 64


def test_steps_meet_every_phase_of_a_schedule_in_its_share() -> None:
    moments = [Moment(step, 19, 1) for step in range(19)]  # the default of the command
    radius = Radius.parse("0.1")
    for method, share in ((CrownIbp(radius), 0.5), (Lbp(radius), 0.25)):
        rising = sum(0 < method.config().progress(moment) < 1 for moment in moments) / len(moments)
        assert rising == pytest.approx(share, abs=0.03)
    phases = Counter(AdvIbp(radius).phase(moment) for moment in moments)
    for phase, share in ((Phase.NATURAL, 0.04), (Phase.ATTACKED, 0.16), (Phase.BOUNDED, 0.196), (Phase.JOINT, 0.604)):
        assert phases[phase] / len(moments) == pytest.approx(share, abs=0.03)


def test_a_split_smaller_than_the_steps_begins_anew() -> None:
    data = load_data("digits", Split.VALIDATION).first(10)
    chosen = workload.training_images(data, 25)
    assert chosen.index.tolist() == [*data.index.tolist()] * 2 + data.index[:5].tolist()
    assert chosen.labels.tolist() == [*data.labels.tolist()] * 2 + data.labels[:5].tolist()


def test_each_method_is_verified_by_its_own_bound(tmp_path: Path) -> None:
    names = ("abstrain", "plain", "pgd", "ibp", "crown-ibp", "llm", "lbp")
    claims = {name: workload.subject_of(run_of(name)).claim for name in names}
    ball = dict.fromkeys(("ibp", "crown-ibp", "llm", "lbp"), "ball")
    assert claims == {"abstrain": "cell", "plain": None, "pgd": None, **ball}
    words = [workload.subject_of(run_of(name)).verified_by for name in ("abstrain", *ball)]
    assert len(set(words)) == len(words)
    assert "CROWN-LBP" in workload.subject_of(run_of("lbp")).verified_by


@pytest.mark.parametrize("method", ["llm", "crown-ibp", "lbp", "reachable"])
def test_every_bound_runs_on_every_image(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(
        data="digits",
        network="fc-3-code",
        seed=0,
        subjects=(workload.subject_of(run_of(method)),),
        steps=2,
        images=7,
        search_images=0,
        training_images=1000,
        test_images=359,
        device="here",
        versions={},
        schema=1,
    )
    data = {split: load_data("digits", split) for split in Split}
    seen: list[torch.Tensor] = []
    own = workload._bound(run_of(method))

    def watching(*arguments: Any) -> workload.Margins:
        margins = own.of(*arguments)

        def watched(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            found = margins(images, labels)
            assert found.isfinite().all()
            seen.append(labels)
            return found

        return watched

    monkeypatch.setattr(workload, "_bound", lambda _: replace(own, of=watching))
    found = workload.workloads(setting, setting.subjects[0], data, tmp_path, tmp_path / "scratch")
    assert found[Kind.VERIFICATION]() > 0
    assert torch.cat(seen).tolist() == data[Split.TEST].labels[:7].tolist()
