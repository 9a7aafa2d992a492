#!/bin/sh
# What `coheap run index DIR` must say, from programs that are not ours: word<TAB>total<TAB>files, sorted by bytes.
#
# usage: oracle.sh DIR
#
# `grep -Z` ends a file's name with NUL. With NUL and newline exchanged (newline as \001), a line is a word, \001, and the name
# of the *next* word's file, so names may hold any byte. A file's words come one after the other, so a change of name is a new file.
set -eu
if [ $# -ne 1 ] || [ ! -d "$1" ]; then
    echo "usage: oracle.sh DIR" >&2
    exit 2
fi
LC_ALL=C
export LC_ALL
# grep ends with 1 when nothing matches and with 2 when a file is unreadable: neither is our failure.
{ grep -roaZE '[A-Za-z]+' "$1" 2>/dev/null || [ $? -le 2 ]; } |
    tr '\0\n' '\n\001' |
    awk '
        {
            if (NR > 1) {
                word = $0
                sub(/\001.*/, "", word)
                name = substr($0, length(word) + 2)
                word = tolower(word)
                total[word]++
                if (last[word] != file) { last[word] = file; files[word]++ }
            } else name = $0
            if (name != seen || NR == 1) { file++; seen = name }
        }
        END { for (word in total) printf "%s\t%d\t%d\n", word, total[word], files[word] }
    ' |
    sort
