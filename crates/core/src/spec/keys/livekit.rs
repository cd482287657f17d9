//! Keys of jobs of LiveKit workers.

use super::super::bounds;
use super::Fallback::{None, Required, Value};
use super::{Keys, Kind, Need, key};
pub(in super::super) static LIVEKIT: Keys = Keys {
    header: "[livekit]",
    need: Need::Any,
    rows: &[
        key(
            "url",
            Kind::Text,
            Required,
            "The server: `\"wss://HOST\"`, or `\"ws://HOST:PORT\"` without TLS.",
        ),
        key(
            "api_key",
            Kind::Text,
            Required,
            "The name of the server's API key. Workers use the same.",
        ),
        key(
            "ca_file",
            Kind::Text,
            None("the usual ones"),
            "File of certificates (PEM), one of which must have signed a `wss://` server's.",
        ),
        key(
            "secret_file",
            Kind::Text,
            Required,
            "File with the secret of the key.",
        ),
        key(
            "listen",
            Kind::Address,
            Value("\"127.0.0.1:7080\""),
            "Where workers connect to. Another port than the gateway's and the API's.",
        ),
        key(
            "unsigned",
            Kind::Flag,
            Value("false"),
            "Whether workers are believed which release they are of, by `LIVEKIT_AGENT_DEPLOYMENT` \
             or `ws://HOST:PORT/w/LABEL`. For one machine, or a network where nobody else can \
             connect. Else they show a token, and the next three keys are required.",
        ),
        key(
            "environment",
            Kind::Name,
            None("none"),
            "The environment for which key sets and manifests are signed.",
        ),
        key(
            "keys",
            Kind::Text,
            None("none"),
            "File of key sets, as `segue membership rotate` writes it. Read again when it changes.",
        ),
        key(
            "manifest",
            Kind::Text,
            None("none"),
            "File of the manifest, as `segue membership sign` writes it. Read again when it changes.",
        ),
    ],
};

pub(in super::super) static AGENT_LIVEKIT: Keys = Keys {
    header: "[agents.NAME.livekit]",
    need: Need::Any,
    rows: &[
        key(
            "name",
            Kind::Text,
            Value("\"\""),
            "The name under which its workers register (`agent_name`); empty: they take a job of \
             every room.",
        ),
        key(
            "namespace",
            Kind::Text,
            Value("\"\""),
            "The namespace that they register in, for workers that still do.",
        ),
        key(
            "hold",
            Kind::Duration(&bounds::HOLD),
            Value("\"1.5s\""),
            "How long a job is held when every worker is busy. The server gives it up after three \
             seconds.",
        ),
        key(
            "redispatch",
            Kind::Flag,
            Value("false"),
            "A room whose agent's worker died, and where somebody still is, gets another agent, \
             through the server's API. Three times in ten minutes at most.",
        ),
        key(
            "room_metadata",
            Kind::Flag,
            Value("false"),
            "`agent_version`, the release's label, is put into the metadata of its rooms, if that is \
             a JSON object or empty.",
        ),
    ],
};
