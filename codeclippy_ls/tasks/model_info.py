"""What is known of a loaded model, as plain data: whoever asks about one need not have it at hand. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codeclippy_ls.prompts.build import edits, markers
from codeclippy_ls.prompts.families import Family, detect_family, detect_served_family


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a loaded model, as plain data.

    Attributes:
        name: the folder or hub name it was asked for by; empty is the shipped model.
        markers: ids of the control tokens that families are recognised by.
        chat: whether it follows instructions.
        window: the most tokens that prompt and answer have together.
        parameters: numbers in the weights; ``nbytes`` is the memory that they take.
        device, dtype, threads: where and how it runs.
        own: whether our own decoder runs it.
        passes: whether it runs recorded passes on a GPU, in words; empty elsewhere.
        cost: of a pass over eight tokens, in passes over one.
        served: by whom, where another program serves it, so that its vocabulary is not known.
    """

    name: str
    architecture: str = ""
    markers: tuple[tuple[str, int], ...] = ()
    chat: bool = False
    window: int = 0
    parameters: int = 0
    nbytes: int = 0
    device: str = ""
    dtype: str = ""
    threads: int = 0
    own: bool = False
    passes: str = ""
    cost: float = 1.0
    served: str = ""

    def family(self, wanted: str = "") -> Family:
        """Its row in the table of families.

        Raises:
            ValueError: the family named in the settings does not fit.
        """
        if self.served:
            return detect_served_family(self.name, wanted)
        return detect_family(self.architecture, self.name, dict(self.markers).get, wanted)

    def writes_diffs(self, wanted: str = "") -> bool:
        """Whether it does: by its training, or because it follows instructions.

        Raises:
            ValueError: the family named in the settings does not fit.
        """
        return edits(self.family(wanted), self.chat)


def describe_model(model: Any) -> ModelInfo:
    """What there is to say of a model that the engine has loaded."""
    return ModelInfo(
        model.name,
        model.architecture,
        markers(model.tokenizer),
        model.chat is not None,
        model.context_length,
        model.num_parameters,
        model.nbytes,
        str(model.device),
        model.dtype,
        model.thread_tuner.count,
        model.module is None,
        str(getattr(model.runner, "graph_runner", None) or ""),
        round(model.pass_cost(8), 2),
    )
