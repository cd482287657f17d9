#!/bin/sh
# Regenerates the speech clips: raw G.711 mu-law, 8 kHz, mono, no header.
# Needs flite (voices slt and rms) and sox. Run from anywhere.
set -eu
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# say VOICE NAME TEXT: speaks, resamples, trims both ends, levels to -6 dBFS, encodes.
say() {
    flite -voice "$1" -t "$3" -o "$scratch/$2.wav"
    sox -D "$scratch/$2.wav" -r 8000 -c 1 -t ul "$2.ulaw" \
        silence 1 0.02 1% reverse silence 1 0.02 1% reverse norm -6
}

# The agent's voice.
say slt greeting "hello, this is the front desk, how can I help"
say slt hours "we are open from nine to five"
say slt booking "your table is booked for tonight"
say slt address "you will find us at twelve harbour street"
say slt goodbye "thank you for calling, goodbye"
say slt sorry "sorry, could you say that again"
say slt weather "the weather in paris is sunny"

# The caller's voice.
say rms ask-hours "what are your opening hours"
say rms ask-booking "can I book a table for tonight"
say rms ask-address "where can I find you"
say rms bye "thanks, bye bye"
