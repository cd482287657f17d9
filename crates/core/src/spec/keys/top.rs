//! Keys of everything that is not an agent's.

use super::super::bounds;
use super::Fallback::{None, Required, Value};
use super::livekit::LIVEKIT;
use super::membership::MEMBERSHIP;
use super::{AGENT, Key, Keys, Kind, Need, key};

pub(in super::super) static TOP: Keys = Keys {
    header: "",
    need: Need::Any,
    rows: &[
        key(
            "gateway",
            Kind::Table(&GATEWAY),
            None(""),
            "[Where calls come in](#gateway).",
        ),
        key(
            "api",
            Kind::Table(&API),
            None(""),
            "[Where Segue is operated](#api).",
        ),
        key(
            "telemetry",
            Kind::Table(&TELEMETRY),
            None("none: no traces"),
            "[Where traces go](#telemetry).",
        ),
        key(
            "notify",
            Kind::Tables(&NOTIFY, bounds::NOTIFY_MAX),
            Value("[]"),
            "[Who is told](#notify) of decisions.",
        ),
        key(
            "membership",
            Kind::Table(&MEMBERSHIP),
            None("none: every worker of a release"),
            "[Who may take calls](#membership), by signature.",
        ),
        key(
            "livekit",
            Kind::Table(&LIVEKIT),
            None("none: no jobs"),
            "[Jobs of LiveKit workers](#livekit).",
        ),
        key(
            "agents",
            Kind::Named(&AGENT, bounds::AGENTS_MAX),
            Required,
            "[The agents](#agentsname), by name; at least one.",
        ),
    ],
};

pub(in super::super) static GATEWAY: Keys = Keys {
    header: "[gateway]",
    need: Need::Any,
    rows: &[
        key(
            "listen",
            Kind::Address,
            Value("\"127.0.0.1:8080\""),
            "Where calls come in.",
        ),
        key(
            "tls",
            Kind::Table(&TLS),
            None("none: plain"),
            "[The identity](#gatewaytls) of the gateway.",
        ),
        key(
            "max_connections",
            Kind::Count(&bounds::CONNECTIONS),
            Value("4096"),
            "Connections at once that are no calls yet; further ones are answered with 503. A live \
             call does not count.",
        ),
        key(
            "max_connections_per_address",
            Kind::Count(&bounds::CONNECTIONS),
            Value("1024"),
            "The same, from one address (IPv6: from one /64). Live calls are not limited by \
             address: carriers place all of theirs from a few.",
        ),
        key(
            "head_timeout",
            Kind::Duration(&bounds::HEAD_TIMEOUT),
            Value("\"10s\""),
            "From the connection to the end of its request head, TLS included; then 408.",
        ),
        key(
            "body_timeout",
            Kind::Duration(&bounds::BODY_TIMEOUT),
            Value("\"10s\""),
            "From the head to the end of the body, and longer only as far as it comes at 16 KiB a \
             second; then 408.",
        ),
        key(
            "stall_timeout",
            Kind::Duration(&bounds::STALL_TIMEOUT),
            Value("\"30s\""),
            "How long a caller may leave 16 KiB of an answer unread before it is closed. A live \
             call never is for this.",
        ),
    ],
};

/// The keys of an identity.
const IDENTITY: &[Key] = &[
    key(
        "cert",
        Kind::Text,
        Required,
        "PEM file with the certificate chain, leaf first.",
    ),
    key(
        "key",
        Kind::Text,
        Required,
        "PEM file with the private key.",
    ),
];

pub(in super::super) static TLS: Keys = Keys {
    header: "[gateway.tls]",
    need: Need::Any,
    rows: IDENTITY,
};

pub(in super::super) static API: Keys = Keys {
    header: "[api]",
    need: Need::Any,
    rows: &[
        key(
            "listen",
            Kind::Address,
            Value("\"127.0.0.1:7070\""),
            "Where `segue` commands reach this Segue. Beyond loopback only with `tls`. Another port \
             than the gateway's.",
        ),
        key(
            "tls",
            Kind::Table(&API_TLS),
            None("none: plain, on loopback only"),
            "[The identity](#apitls) of the API.",
        ),
        key(
            "names",
            Kind::OneOrMore(&Kind::Text, bounds::ITEMS_MAX),
            Value("[]"),
            "Host names by which it may be asked, beside its own address and those of loopback. \
             Requests for any other `Host` are refused, so that no web page can reach it by a name \
             of its own.",
        ),
        key(
            "rate_limit",
            Kind::Count(&bounds::RATE_LIMIT),
            Value("50"),
            "Requests per second that one token may make. A rollback always gets through.",
        ),
    ],
};

pub(in super::super) static API_TLS: Keys = Keys {
    header: "[api.tls]",
    need: Need::Any,
    rows: IDENTITY,
};

pub(in super::super) static TELEMETRY: Keys = Keys {
    header: "[telemetry]",
    need: Need::Any,
    rows: &[key(
        "otlp",
        Kind::Url,
        None("none: no traces"),
        "Base address of an OTLP/HTTP receiver, such as `\"http://127.0.0.1:4318\"`. One trace per \
         rollout and one per call.",
    )],
};

/// Forms of a notification.
pub(in super::super) const FORMATS: [&str; 3] = ["json", "slack", "cdevents"];

/// What addresses may be called although they are not public.
const ALLOW: &str = "Addresses and networks that may be called although they are not public, such \
                     as `\"127.0.0.1\"` or `\"10.0.0.0/8\"`. All others are refused, also when a \
                     name leads to them.";

pub(super) const fn url(meaning: &'static str) -> Key {
    key("url", Kind::Url, Required, meaning)
}

pub(super) const fn secret_file() -> Key {
    key(
        "secret_file",
        Kind::Text,
        None("none: not signed"),
        "File whose content signs each body: HMAC-SHA256 in `X-Segue-Signature`.",
    )
}

pub(super) const fn allow() -> Key {
    key(
        "allow",
        Kind::OneOrMore(&Kind::Network, bounds::ITEMS_MAX),
        Value("[]"),
        ALLOW,
    )
}

pub(in super::super) static NOTIFY: Keys = Keys {
    header: "[[notify]]",
    need: Need::Any,
    rows: &[
        key(
            "name",
            Kind::Name,
            Required,
            "What logs and metrics call it; each only once.",
        ),
        url("Where to."),
        key(
            "format",
            Kind::Word(&FORMATS),
            Value("\"json\""),
            "`\"json\"`: the audit entry and the text. `\"slack\"`: `{\"text\": …}`, which Slack and \
             its kin take. `\"cdevents\"`: CDEvents in CloudEvents.",
        ),
        key(
            "events",
            Kind::OneOrMore(&Kind::Text, bounds::ITEMS_MAX),
            Value("[]"),
            "Names of the decisions it is told of, such as `\"landed\"`; `segue audit` shows them. An \
             empty list: those that a person wants to know of.",
        ),
        key(
            "template",
            Kind::Text,
            None("none: ours"),
            "The text, with `{agent}`, `{event}`, `{release}`, `{actor}` and `{reason}`.",
        ),
        secret_file(),
        allow(),
    ],
};
