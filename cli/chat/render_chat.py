"""Renders a checkpoint's chat template. Reads {"template", "values"} as JSON on
stdin and writes the text to stdout.

The environment is what Transformers gives a template: Jinja's sandbox, without
blank lines of blocks, with loop controls and the functions below. Templates come
from strangers: the sandbox keeps them from reaching Python, and the limits below
end those that never stop.

Exit codes: 3: there is no jinja2; 4: the template refused or failed, and stdout
says why.
"""
import datetime
import json
import os
import resource
import sys

# What a template may take.
SECONDS = 10
BYTES = 1 << 30

# The caller reads both streams as the text; a warning is none of it.
os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

try:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox
except ImportError:
    sys.exit(3)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None,
            sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent,
                      separators=separators, sort_keys=sort_keys)


def strftime_now(pattern):
    return datetime.datetime.now().strftime(pattern)


def line_of(error):
    """The line of a syntax error, or of what the template was running."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f"line {line}: "


def main():
    request = json.load(sys.stdin.buffer)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    try:
        text = environment.from_string(request["template"]).render(
            **request["values"])
    except Exception as error:  # whatever a template may do
        sys.stdout.write(f"{line_of(error)}{type(error).__name__}: {error}")
        sys.exit(4)
    sys.stdout.buffer.write(text.encode("utf-8", "surrogatepass"))


main()
