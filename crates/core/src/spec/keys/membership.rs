//! Keys of who may take calls.

use super::Fallback::{Required, Value};
use super::{Keys, Kind, Need, key};

pub(in super::super) static MEMBERSHIP: Keys = Keys {
    header: "[membership]",
    need: Need::Any,
    rows: &[
        key(
            "environment",
            Kind::Name,
            Required,
            "The environment for which key sets and manifests are signed.",
        ),
        key(
            "keys",
            Kind::Text,
            Required,
            "File of key sets, as `segue membership rotate` writes it. Read again when it changes.",
        ),
        key(
            "manifest",
            Kind::Text,
            Required,
            "File of the manifest, as `segue membership sign` writes it. Read again when it changes.",
        ),
        key(
            "workers",
            Kind::Word(&["attested", "registered"]),
            Value("\"attested\""),
            "What a worker needs to take new calls: that its release is in the manifest, or besides \
             that it has shown a token that is bound to its key. Agents with `livekit` need the \
             former: their tokens are looked at where they connect.",
        ),
    ],
};
