"""A run of a template is bounded: it ends soon and makes little, whatever it says."""

# ruff: noqa: E501  # templates are easier to read in long lines

from __future__ import annotations

import pytest

from headrace.text.templates import ChatTemplate, TemplateError
from headrace.types import Message

USER = (Message("user", "hi"),)
DOUBLED = (
    "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(99) %}{% set ns.x = EXPRESSION %}{% endfor %}"
)
ENDLESS = {
    "loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "loops within": "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}",
    "macros": ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"),
    "a recursive loop": (
        "{% set x = [[1, 1], [1, 1]] %}{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}"
    ),
    "sums": DOUBLED.replace("EXPRESSION", "ns.x + ns.x"),
    "joints": DOUBLED.replace("EXPRESSION", "ns.x ~ ns.x"),
    "products": "{{ 'x' * 10**12 }}",
    "products of lists": "{{ [1] * 10**12 }}",
    "the other way": "{{ 10**12 * 'x' }}",
    "products by and by": DOUBLED.replace("EXPRESSION", "ns.x * 9"),
    "powers": "{{ 9 ** 9 ** 9 ** 9 ** 9 }}",
    "powers by and by": (
        "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}"
    ),
    "nested lists": DOUBLED.replace("EXPRESSION", "[ns.x, ns.x]") + "{{ ns.x }}",
    "nested lists as JSON": DOUBLED.replace("EXPRESSION", "[ns.x, ns.x]") + "{{ ns.x | tojson }}",
    "nested lists as text": DOUBLED.replace("EXPRESSION", "[ns.x, ns.x]") + "{{ (ns.x | string) ~ '' }}",
    "captured": (
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
        "{% set ns.x = y %}{% endfor %}"
    ),
    "replaced": DOUBLED.replace("EXPRESSION", "ns.x.replace('x', 'xx')"),
    "replaced by a filter": DOUBLED.replace("EXPRESSION", "ns.x | replace('x', 'xx')"),
    "wide": "{{ '%1000000000d' % 1 }}",
    "wide by a value": "{{ '%*d' % (1000000000, 1) }}",
    "wide by a filter": "{{ '%1000000000d' | format(1) }}",
    "wide by format": "{{ '{:1000000000}'.format(1) }}",
    "wide by format of format": "{{ '{:{}}'.format(1, 1000000000) }}",
    "centred": "{{ 'x' | center(1000000000) }}",
    "centred by a method": "{{ 'x'.center(1000000000) }}",
    "filled": "{{ 'x'.zfill(1000000000) }}",
    "tabs": "{{ ('\t' * 1000).expandtabs(99999) }}",
    "indented": "{{ ('\n' * 1000) | indent(99999) }}",
    "batched": "{{ [1] | batch(1000000000, 'x') | list }}",
    "sliced": "{{ [1] | slice(1000000000) | list }}",
    "joined": "{{ (['x'] * 9999) | join('x' * 9999) }}",
    "joined by a method": "{{ ('x' * 9999).join(['x'] * 9999) }}",
    "added up": "{{ ([[1] * 9999] * 9999) | sum(start=[]) | length }}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "lipsum": "{{ lipsum(n=100000) }}",
    "another file": "{% include 'x' %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_an_end_is_stopped(name: str) -> None:
    template = ChatTemplate(ENDLESS[name])
    assert template.refusal is not None
    with pytest.raises(TemplateError) as raised:
        template.render(USER)
    assert (raised.value.status, raised.value.code) == (400, "chat_template_error")
    assert len(raised.value.message) < 1000


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ 'x",
        "{{ x | nofilter }}",
        "{% nosuch %}",
        "{{" + "(" * 9999,
        "{% if %}" * 99,
        "{% for a in b %}" * 40 + "{% endfor %}" * 40,
        "x" * 2_000_000,
        "{{ '\ud800' }}",
        "{{ 1 +* 2 }}",
    ],
)
def test_a_template_that_cannot_be_read_is_a_400(source: str) -> None:
    template = ChatTemplate(source)
    for _ in range(2):
        with pytest.raises(TemplateError):
            template.render(USER)


def test_long_conversations_are_no_attack() -> None:
    messages = tuple(Message("user", "word " * 50) for _ in range(3000))
    source = (
        "{% for message in messages %}{% for part in message.content.split(' ') %}{{ part ~ ' ' }}{% endfor %}"
        "{{ message.content + '.' }}{{ message | tojson }}{% if not loop.last %}{{ loop.length }}{% endif %}{% endfor %}"
    )
    assert len(ChatTemplate(source).render(messages)) > 1_500_000


def test_what_is_counted_does_not_change_what_is_written() -> None:
    source = (
        "{% for a in 'ab' %}{{ loop.index }}{{ loop.last }}{{ a ~ 1 ~ none }}{% else %}none{% endfor %}"
        "{% for a in [] %}x{% else %}none{% endfor %}{{ ['a', 'b'] | join(', ') }}{{ {'a': [1, none]} }}"
        "{% for a in [[1, [2]], [3]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}{{ 2 ** 10 }}"
        "{{ '%05.1f' % 2.25 }}{{ '{:>4}'.format('a') }}{{ 'a' | center(5) }}{{ x | default('d') }}{{ 7 % 4 }}"
        "{% set y %}{{ 'a' }}b{% endset %}{{ y }}{{ [1] * 2 + [3] }}{{ 'a\nb' | indent(2) }}{{ [3, 1] | sum }}"
    )
    assert ChatTemplate(source).render(USER) == (
        "1Falsea1None2Trueb1Nonenonea, b{'a': [1, None]}1231024002.2   a  a  d3ab[1, 1, 3]a\n  b4"
    )
