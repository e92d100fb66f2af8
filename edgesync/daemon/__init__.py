"""The service `edgesyncd`: reads its configuration, runs databases and listeners, stops them.

Knows TOML, signals, exit codes and systemd's notification protocol. Does not
know what a listener does: it uses the same front door as any program that
imports `edgesync`, so whatever the service can do, a user's program can too.

How it works: `config` turns the file into frozen values and refuses all that
it does not understand, with the way out; `edgesyncd` builds databases and
listeners from them, starts them, and then waits for a signal in the main
greenlet, which also feeds systemd's watchdog. The watchdog is fed from the
event loop on purpose: a loop that is stuck starves it, and systemd restarts
the service.

`reload` answers SIGHUP: it reads and checks the file again, `plan` compares two
configurations, and `hosted` carries out the difference. To stop and build
everything anew would be simpler and would disconnect everybody.

The keys stand once, in `config_keys`: `reference` makes the manual page and the
example from them. `edgesyncd --check`, as a reload, builds all that is configured
in a folder that is thrown away and starts nothing; a second set of rules for
checking would sooner or later disagree with the first.

Sources: the manual pages systemd.service(5), sd_notify(3), sd-daemon(3),
systemd.exec(5); TOML 1.0.
"""
