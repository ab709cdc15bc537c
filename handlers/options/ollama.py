"""The options that only engine ollama takes: what its server documents, in its words and ranges.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and api/types.go beside it; docs/modelfile.mdx
there explains them. Servers log and ignore options that their version does not know.
"""

from __future__ import annotations

from handlers.options.spec import OptionSpec

_CONTEXT_BOUND = "ollama.max_context"

OLLAMA_OPTIONS = (
    OptionSpec("format", "format", "Form of the answer."),
    OptionSpec("keep_alive", "duration", "How long the model stays loaded afterwards; negative: for ever."),
    OptionSpec(
        "think",
        "choice",
        "Whether and how hard a thinking model thinks first.",
        choices=(True, False, "low", "medium", "high", "max"),
    ),
    OptionSpec(
        "truncate",
        "boolean",
        "Cut a prompt that is longer than the context, oldest part first, instead of refusing it.",
    ),
    OptionSpec("min_p", "number", "Leave out tokens below this share of the likeliest one's probability.", 0, 1),
    OptionSpec("typical_p", "number", "Sample from tokens of typical probability; 1 samples from all.", 0, 1),
    OptionSpec("tfs_z", "number", "Tail-free sampling of older servers; 1 is none.", 0, 100),
    OptionSpec("mirostat", "choice", "Mirostat sampling: off, version 1 or version 2.", choices=(0, 1, 2)),
    OptionSpec("mirostat_tau", "number", "Mirostat's target entropy.", 0, 100),
    OptionSpec("mirostat_eta", "number", "Mirostat's learning rate.", 0, 1),
    OptionSpec(
        "repeat_last_n",
        "integer",
        "Latest tokens that repeat_penalty looks at; 0: none, -1: the whole context.",
        -1,
        bound=_CONTEXT_BOUND,
    ),
    OptionSpec("presence_penalty", "number", "Above 0, tokens that occurred before become less likely.", -2, 2),
    OptionSpec("frequency_penalty", "number", "Above 0, tokens become less likely each time they occur.", -2, 2),
    OptionSpec("penalize_newline", "boolean", "Whether repeat_penalty counts line ends; older servers."),
    OptionSpec(
        "draft_num_predict",
        "integer",
        "Most tokens a draft model runs ahead; 0 does without one.",
        0,
        bound="ollama.max_batch",
    ),
    OptionSpec("num_ctx", "integer", "Context window in tokens; a change reloads the model.", 1, bound=_CONTEXT_BOUND),
    OptionSpec(
        "num_keep",
        "integer",
        "Tokens of the prompt that stay when the context is full; -1: all.",
        -1,
        bound=_CONTEXT_BOUND,
    ),
    OptionSpec(
        "num_batch",
        "integer",
        "Tokens of a prompt read at once; a change reloads the model.",
        1,
        bound="ollama.max_batch",
    ),
    OptionSpec(
        "num_gpu", "integer", "Layers held by GPUs, -1: as many as fit; a change reloads the model.", -1, 10_000
    ),
    OptionSpec("main_gpu", "integer", "The GPU that holds small tensors; a change reloads the model.", 0, 1_000),
    OptionSpec(
        "num_thread",
        "integer",
        "Threads, 0: as the server decides; a change reloads the model.",
        0,
        bound="ollama.max_threads",
    ),
    OptionSpec("use_mmap", "boolean", "Map the file into memory; a change reloads the model."),
    OptionSpec("use_mlock", "boolean", "Lock the model in memory; older servers."),
    OptionSpec("low_vram", "boolean", "Spare the GPU's memory; older servers."),
    OptionSpec("numa", "boolean", "Fit threads and memory to NUMA nodes; older servers."),
)
"""In the order in which they are listed."""
