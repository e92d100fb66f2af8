"""The command `edgesync`: what a technician types over SSH, and scripts run.

Knows arguments, terminals, tables, exit codes and prompts. Does not know the
service's insides: it asks the local API, and sees `api.client` and `errors` alone.
`doctor` looks at the machine itself, too, because it must help when the service
does not run.

How it works: `main` makes the tree of nouns and verbs, runs the one function that
belongs to the verb, and turns errors into one line and an exit code: 0 done,
1 failed, 2 wrong usage, 3 the service is not running, 4 not permitted. A verb asks
the service and hands what it got to `output`, which prints JSON for programs and
tables for people. A module per noun; each adds its own verbs.

It starts on the standard library: rich (tables, progress, live view) and segno (QR
codes) are imported in the functions that show them, so that `--json` is answered
before they would be loaded, and a box without them can still be asked. The man
page and the completions are made from the same tree (`manual`, `completion`), so
they cannot fall behind it.

Why argparse and not click or typer: it is there without an import of 60 ms, on the
smallest board half a second for each call.

Sources: the GNU coding standards on options, https://no-color.org.
"""
