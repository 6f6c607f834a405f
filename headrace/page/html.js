// The page's markup language: preact's elements, written as template strings.
import { h } from "preact";
import htm from "htm";

export const html = htm.bind(h);
