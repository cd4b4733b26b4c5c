"""LogicVista as `lscpku/LogicVista` has it, which lmms-eval reads.

Columns `id`, `question` (which names its options), `answer` (a letter, or some: "A, C"), `image`, and `reasoning`,
`skill`, `broad_capability`, `specific_capability`, `imagesource`, `sourcelink` and `liscenced`, by lmms-eval's
`logicvista` task and public scripts that read it. The licence is that of the repository Yijia-Xiao/LogicVista.
"""

from observe_r1.ladder.sources.mmk12 import adapt
from observe_r1.ladder.sources.source import Source

SOURCE = Source(
    name="logicvista",
    title="LogicVista",
    hub="lscpku/LogicVista",
    split="test",
    licence="Apache-2.0",
    adapt=adapt,
    benchmark="all of it is a benchmark: name it in screen.benchmarks, do not train on it",
)
