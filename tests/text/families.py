"""Chat templates in the manner of well-known families of models: small, and they refuse what those refuse."""

# ruff: noqa: E501  # templates are easier to read in long lines

from __future__ import annotations

ALTERNATING = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
FAMILIES = {
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}"
        + ALTERNATING
        + "{% set role = 'model' if message.role == 'assistant' "
        "else message.role %}{{ '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "gemma3": (
        "{% if messages[0]['role'] == 'system' %}{% set prefix = messages[0].content + '\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set prefix = '' %}{% set rest = messages %}{% endif %}"
        "{% for message in rest %}" + ALTERNATING + "<start_of_turn>{{ message.role }}\n"
        "{{ (prefix if loop.first else '') + message.content }}<end_of_turn>\n{% endfor %}"
    ),
    "mistral-instruct-0.1": (
        "{{ bos_token }}{% for message in messages %}" + ALTERNATING + "{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ message['content'] + eos_token }}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    "mistral-instruct-0.3": (
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0].content %}"
        "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
        "{% set ns = namespace(index=0) %}{% for message in rest %}"
        "{% if not (message.role == 'tool' or message.role == 'tool_results' or message.tool_calls is defined) %}"
        "{% if (message['role'] == 'user') != (ns.index % 2 == 0) %}"
        "{{ raise_exception('After the optional system message, conversation roles must alternate') }}"
        "{% endif %}{% set ns.index = ns.index + 1 %}{% endif %}{% endfor %}{{ bos_token }}"
        "{% for message in rest %}{% if message.role == 'user' %}[INST] "
        "{% if loop.last and system %}{{ system + '\n\n' }}{% endif %}{{ message.content }}[/INST]"
        "{% elif message.tool_calls is defined %}[TOOL_CALLS] {{ message.tool_calls | tojson }}</s>"
        "{% elif message.role == 'assistant' %} {{ message.content }}</s>"
        "{% elif message.role == 'tool' %}[TOOL_RESULTS] {{ message.content }}[/TOOL_RESULTS]"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
        "{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set system = false %}"
        "{% endif %}{% for message in rest %}" + ALTERNATING + "{% if loop.index0 == 0 and system %}"
        "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}{% else %}"
        "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "vicuna": (
        "{% for message in messages %}{% if message.role == 'user' %}USER: {{ message.content }} "
        "{% elif message.role == 'assistant' %}ASSISTANT: {{ message.content }}</s>{% endif %}{% endfor %}"
    ),
    "zephyr": (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] }}"
        "{% elif message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] }}"
        "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\n'  + message['content'] }}{% endif %}"
        "{% endfor %}"
    ),
    "command-r": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{{ messages[0].content }}"
        "{% else %}{% set rest = messages %}{% endif %}{% for message in rest %}" + ALTERNATING + ""
        "<|START_OF_TURN_TOKEN|>{{ message.role }}{{ message.content }}{% endfor %}"
    ),
    "strict system first": (
        "{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
        "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
        "<|{{ message.role }}|>{{ message.content }}{% if message.tool_calls %}{{ message.tool_calls }}{% endif %}"
        "{% endfor %}"
    ),
    "needs a user": (
        "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
        "{{ raise_exception('No user query found in messages.') }}{% endif %}"
        "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    ),
    "chatml": "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}",
}
