"""The PyTorch runner: any decoder of transformers behind the engine's `Runner`. Needs the extra `torch`.

A forward pass, from the top:

    load.py        folder → model, self-test, runner (devices.py: on which device)
    runner.py      TorchRunner: the engine's batch → one call of the model
    step.py        the batch as groups of sequences, whose attention is one operation each
    attention.py   the function that transformers' models call instead of their own attention
    cache.py       the keys and values of all layers, in blocks, and where each is
    sequential.py  SequentialRunner: for models whose state is not only keys and values
"""
