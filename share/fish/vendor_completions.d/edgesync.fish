# fish completion for edgesync; made by "python -m edgesync.cli.completion fish"
function __edgesync_typed
    set -l skipped 0
    for word in (commandline -opc)[2..]
        if test $skipped = 1
            set skipped 0
        else if test $word = --socket
            set skipped 1
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end
function __edgesync_at
    set -l typed (__edgesync_typed)
    test "$typed" = "$argv"
end
function __edgesync_in
    set -l typed (__edgesync_typed)
    test "$typed[1..$(count $argv)]" = "$argv"
end
complete -c edgesync -f
complete -c edgesync -l json -d 'answer with JSON, for programs'
complete -c edgesync -l socket -r -F -d 'the service\'s socket'
complete -c edgesync -l help -d 'explain it'
complete -c edgesync -n '__edgesync_at' -a status -d 'Show listeners, clients, databases and what is wrong'
complete -c edgesync -n '__edgesync_in status' -l watch -d 'go on showing it, with rates'
complete -c edgesync -n '__edgesync_in status' -l interval -d 'with --watch, how often (default: 2)'
complete -c edgesync -n '__edgesync_at' -a listener -d 'Show and restart listeners'
complete -c edgesync -n '__edgesync_at listener' -a list -d 'List all listeners'
complete -c edgesync -n '__edgesync_at listener' -a show -d 'Show all about a listener'
complete -c edgesync -n '__edgesync_at listener' -a restart -d 'Stop and start a listener; clients come back'
complete -c edgesync -n '__edgesync_at' -a connection -d 'Show and close connections of clients'
complete -c edgesync -n '__edgesync_at connection' -a list -d 'List all clients that are connected'
complete -c edgesync -n '__edgesync_at connection' -a close -d 'Close a client\'s connection; it does not come back by itself'
complete -c edgesync -n '__edgesync_in connection close' -l yes -d 'do not ask'
complete -c edgesync -n '__edgesync_at' -a database -d 'Show databases and look after them'
complete -c edgesync -n '__edgesync_at database' -a list -d 'List all databases'
complete -c edgesync -n '__edgesync_at database' -a show -d 'Show all about a database'
complete -c edgesync -n '__edgesync_at database' -a create -d 'Make a database'
complete -c edgesync -n '__edgesync_in database create' -l collection -d 'scope.name of a collection to make; may be given several times'
complete -c edgesync -n '__edgesync_at database' -a backup -d 'Copy a database into a file, while it is served'
complete -c edgesync -n '__edgesync_in database backup' -F
complete -c edgesync -n '__edgesync_at database' -a restore -d 'Put a backup in the place of a database'
complete -c edgesync -n '__edgesync_in database restore' -F
complete -c edgesync -n '__edgesync_in database restore' -l yes -d 'do not ask'
complete -c edgesync -n '__edgesync_at database' -a verify -d 'Look for damage'
complete -c edgesync -n '__edgesync_at database' -a compact -d 'Give unused room back; writes wait meanwhile'
complete -c edgesync -n '__edgesync_at' -a document -d 'Read and write documents'
complete -c edgesync -n '__edgesync_at document' -a get -d 'Print a document as JSON'
complete -c edgesync -n '__edgesync_at document' -a put -d 'Store a document'
complete -c edgesync -n '__edgesync_in document put' -l rev -d 'only if this is the current revision'
complete -c edgesync -n '__edgesync_at document' -a delete -d 'Delete a document, here and on all clients'
complete -c edgesync -n '__edgesync_in document delete' -l rev -d 'only if this is the current revision'
complete -c edgesync -n '__edgesync_in document delete' -l yes -d 'do not ask'
complete -c edgesync -n '__edgesync_at document' -a list -d 'List documents by ID'
complete -c edgesync -n '__edgesync_in document list' -l start -d 'the ID to begin with'
complete -c edgesync -n '__edgesync_in document list' -l limit -d 'how many (default: all)'
complete -c edgesync -n '__edgesync_at document' -a changes -d 'List the latest change of each document, in order'
complete -c edgesync -n '__edgesync_in document changes' -l since -d 'a sequence, or "now"'
complete -c edgesync -n '__edgesync_in document changes' -l limit -d 'how many (default: all)'
complete -c edgesync -n '__edgesync_in document changes' -l follow -d 'go on with what comes'
complete -c edgesync -n '__edgesync_at document' -a export -d 'Write all documents with their blobs to a file, as lines of JSON'
complete -c edgesync -n '__edgesync_in document export' -F
complete -c edgesync -n '__edgesync_at document' -a import -d 'Store the documents of a file, as export wrote it'
complete -c edgesync -n '__edgesync_in document import' -F
complete -c edgesync -n '__edgesync_in document import' -l replace -d 'replace documents that are there'
complete -c edgesync -n '__edgesync_at' -a identity -d 'Manage certificates and their keys'
complete -c edgesync -n '__edgesync_at identity' -a list -d 'List all identities'
complete -c edgesync -n '__edgesync_at identity' -a show -d 'Show all about an identity'
complete -c edgesync -n '__edgesync_at identity' -a create -d 'Make an identity that signs itself'
complete -c edgesync -n '__edgesync_in identity create' -l name -d 'common name (default: the label)'
complete -c edgesync -n '__edgesync_in identity create' -l organization -d 'whose it is'
complete -c edgesync -n '__edgesync_in identity create' -l dns -d 'a host name; may be repeated'
complete -c edgesync -n '__edgesync_in identity create' -l ip -d 'an address; may be repeated'
complete -c edgesync -n '__edgesync_in identity create' -l email -d 'may be repeated'
complete -c edgesync -n '__edgesync_in identity create' -l client -d 'for a client, not for a listener'
complete -c edgesync -n '__edgesync_in identity create' -l authority -d 'it may issue others'
complete -c edgesync -n '__edgesync_in identity create' -l days -d 'how long it is valid (default: a year)'
complete -c edgesync -n '__edgesync_at identity' -a issue -d 'Make an identity that another one signs'
complete -c edgesync -n '__edgesync_in identity issue' -l issuer -d 'of a certificate authority'
complete -c edgesync -n '__edgesync_in identity issue' -l name -d 'common name (default: the label)'
complete -c edgesync -n '__edgesync_in identity issue' -l organization -d 'whose it is'
complete -c edgesync -n '__edgesync_in identity issue' -l dns -d 'a host name; may be repeated'
complete -c edgesync -n '__edgesync_in identity issue' -l ip -d 'an address; may be repeated'
complete -c edgesync -n '__edgesync_in identity issue' -l email -d 'may be repeated'
complete -c edgesync -n '__edgesync_in identity issue' -l client -d 'for a client, not for a listener'
complete -c edgesync -n '__edgesync_in identity issue' -l days -d 'how long it is valid (default: a year)'
complete -c edgesync -n '__edgesync_at identity' -a import -d 'Take an identity from a file, PKCS#12 or PEM'
complete -c edgesync -n '__edgesync_in identity import' -F
complete -c edgesync -n '__edgesync_in identity import' -l encrypted -d 'ask for the file\'s password'
complete -c edgesync -n '__edgesync_at identity' -a export -d 'Write an identity to a file, as PKCS#12 with a password'
complete -c edgesync -n '__edgesync_in identity export' -F
complete -c edgesync -n '__edgesync_in identity export' -l certificate -d 'only the certificates, as PEM, without key'
complete -c edgesync -n '__edgesync_at identity' -a renew -d 'Make a new certificate for the same key'
complete -c edgesync -n '__edgesync_in identity renew' -l days -d 'how long it is valid (default: a year)'
complete -c edgesync -n '__edgesync_at identity' -a delete -d 'Delete an identity with its key'
complete -c edgesync -n '__edgesync_in identity delete' -l yes -d 'do not ask'
complete -c edgesync -n '__edgesync_at' -a unlock -d 'Open a key store that has a passphrase'
complete -c edgesync -n '__edgesync_at' -a user -d 'Manage the users of listeners with passwords'
complete -c edgesync -n '__edgesync_at user' -a list -d 'List all users'
complete -c edgesync -n '__edgesync_at user' -a add -d 'Add a user; the password is asked for, or read from standard input'
complete -c edgesync -n '__edgesync_at user' -a password -d 'Change a user\'s password'
complete -c edgesync -n '__edgesync_at user' -a remove -d 'Remove a user'
complete -c edgesync -n '__edgesync_in user remove' -l yes -d 'do not ask'
complete -c edgesync -n '__edgesync_at' -a network -d 'Show interfaces and which listener is on which address'
complete -c edgesync -n '__edgesync_at' -a discover -d 'Look for listeners that announce themselves over mDNS'
complete -c edgesync -n '__edgesync_in discover' -l wait -d 'how long (default: 2)'
complete -c edgesync -n '__edgesync_at' -a invite -d 'Show URL and fingerprint of a listener, and a QR code to scan'
complete -c edgesync -n '__edgesync_in invite' -l url -d 'which of several URLs'
complete -c edgesync -n '__edgesync_in invite' -l invert -d 'for terminals with a light background'
complete -c edgesync -n '__edgesync_at' -a doctor -d 'Find what is wrong with this box, and say what to do'
complete -c edgesync -n '__edgesync_in doctor' -l quick -d 'do not read all databases'
complete -c edgesync -n '__edgesync_in doctor' -l config -d 'of a service that does not run (default: /etc/edgesync/edgesync.toml)'
complete -c edgesync -n '__edgesync_at' -a logs -d 'Show the service\'s log, as its memory or the journal has it'
complete -c edgesync -n '__edgesync_in logs' -l lines -d 'how many (default: 100)'
complete -c edgesync -n '__edgesync_in logs' -l follow -d 'go on with what comes'
complete -c edgesync -n '__edgesync_at' -a events -d 'Show what happened: clients, listeners, upkeep'
complete -c edgesync -n '__edgesync_in events' -l lines -d 'how many (default: 100)'
complete -c edgesync -n '__edgesync_in events' -l follow -d 'go on with what comes'
complete -c edgesync -n '__edgesync_at' -a version -d 'Show the versions of the command and the service'
