"""polytape beside the libraries that do a similar job: one command, one table, one picture.

    python -m benchmarks.peers --help

`nets.py` says which nets, `methods.py` which methods, `contenders/` who takes part: a file each.
`keras_nets.py` and `torch_nets.py` are the nets. `worker.py` is the process of a contender,
`runner.py` asks all of them by turns, `page.py` and `picture.py` tell what came out.
"""
