"""The Debian package on Debian 13: installed, served, upgraded, removed (`make test-package`)."""
