"""What people ask of a model, as chats: text to explain, code to change, and prose."""

from __future__ import annotations

FUNCTION = '''\
def schedule(requests, seats, budget):
    """Choose which requests run in the next step, and how many tokens of each.

    Requests that have begun come first. A request that does not fit waits for the next step.
    """
    chosen = {}
    remaining = budget
    for request in sorted(requests, key=lambda request: request.arrival):
        if len(chosen) == seats:
            break
        if request.is_done:
            continue
        if request.has_begun:
            count = 1
        else:
            count = min(request.prompt_length, remaining)
        if count == 0:
            continue
        chosen[request] = count
        remaining = remaining - count
        if remaining <= 0:
            break
    waiting = [request for request in requests if request not in chosen]
    for request in waiting:
        request.times_left_out = request.times_left_out + 1
        if request.times_left_out > 100:
            raise RuntimeError("a request has waited for more than a hundred steps")
    return chosen
'''
TASKS = {
    "chat": (
        "Explain how a bicycle stays upright.",
        "How do I make good coffee at home?",
        "Why is the sky blue? Answer in detail.",
        # Three are few: how much of a text its writer repeats differs by a half from one to the next.
        "What does a lawyer do all day?",
        "How is cheese made?",
        "Explain what a mortgage is.",
        "What is the difference between a crocodile and an alligator?",
        "How do fireworks get their colours?",
        "Tell me about the history of the postal service.",
        "What are the duties of a mayor?",
        "How does a dishwasher get the plates clean?",
        "How do I keep houseplants alive?",
        "What should I know before I adopt a parrot?",
        "How does a tailor make a suit?",
        "Explain how a zip fastener works.",
    ),
    "edit": (
        f"Rename the variable remaining to left in this code, and print the whole code:\n\n{FUNCTION}",
        f"Rename the variable chosen to chunks in this code, and print the whole code:\n\n{FUNCTION}",
        f"Rename the function schedule to plan in this code, and print the whole code:\n\n{FUNCTION}",
    ),
    "prose": (
        "Write a short story about a miller and his dog.",
        "Write a story about a lighthouse keeper who finds a letter.",
        "Describe a morning in a small harbour town in flowing prose.",
    ),
}
CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # of the default model
END = "<|im_end|>"
