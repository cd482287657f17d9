//! Keys of an agent.

use super::super::bounds;
use super::Fallback::{None, Required, Value};
use super::livekit::AGENT_LIVEKIT;
use super::top::{allow, secret_file, url};
use super::{Key, Keys, Kind, Need, key};

/// What a program, a worker or another, is started with.
const DIRECTORY: Key = key(
    "directory",
    Kind::Text,
    None("that of the file"),
    "Working directory.",
);

const HEALTH: Key = key(
    "health",
    Kind::Path,
    None("none"),
    "Path that answers 200 once it is ready. Without it, a TCP connect is enough.",
);

const VERSION: Key = key(
    "version",
    Kind::Version,
    None("none"),
    "Its version, for what others require of it: `\"2.1\"`, `\"v2.1.3-rc.1\"`. `{release}` stands \
     for the label.",
);

const fn list(kind: &'static Kind) -> Kind {
    Kind::OneOrMore(kind, bounds::COMPONENTS_MAX)
}

const DEPENDS_ON: Key = key(
    "depends_on",
    list(&Kind::Name),
    Value("[]"),
    "Components that must be ready before it is started, and whose address it may be told: \
     `{engine.url}`.",
);

const REQUIRES: Key = key(
    "requires",
    list(&Kind::Requirement),
    Value("[]"),
    "Versions that it requires of components: `\"engine >= 2.0\"`, `\"engine ~1.4, < 1.9\"`. A \
     release whose components do not go together is refused; a component without a version meets \
     none.",
);

pub(in super::super) static AGENT: Keys = Keys {
    header: "[agents.NAME]",
    need: Need::Any,
    rows: &[
        key(
            "command",
            Kind::List(&Kind::Text, bounds::ITEMS_MAX),
            None("none"),
            "Program and arguments; no shell is used. Without it, every deploy brings its own: \
             `segue deploy … -- COMMAND`. The bytes of files it names are part of the release's \
             identity; a file that the agent *writes* is better named in `env`.",
        ),
        key(
            "env",
            Kind::Map,
            Value("{}"),
            "Environment, beside what the worker inherits.",
        ),
        DIRECTORY,
        key(
            "workers",
            Kind::Count(&bounds::WORKERS),
            Value("1"),
            "Workers of each release. Two releases run at once during a rollout.",
        ),
        key(
            "capacity",
            Kind::Count(&bounds::CAPACITY),
            Value("100"),
            "Calls that one worker may hold.",
        ),
        HEALTH,
        key(
            "notify",
            Kind::Path,
            None("none: it is not told"),
            "Path to which a worker is told what becomes of its release and calls, as CloudEvents: \
             `retiring`, `call.announce`, `call.hand-off`.",
        ),
        key(
            "prompt",
            Kind::Text,
            None("none"),
            "File with the prompt. A worker finds its release's copy at `{prompt}` and \
             `$SEGUE_PROMPT`; `segue deploy --prompt` changes nothing else.",
        ),
        key(
            "model",
            Kind::Text,
            None("none"),
            "Name of the model, or a file: `{model}` and `$SEGUE_MODEL`.",
        ),
        key(
            "config",
            Kind::Text,
            None("none"),
            "File with the worker's own configuration: `{config}` and `$SEGUE_CONFIG`.",
        ),
        VERSION,
        DEPENDS_ON,
        REQUIRES,
        key(
            "components",
            Kind::Named(&COMPONENT, bounds::COMPONENTS_MAX),
            Value("{}"),
            "[Programs](#agentsnamecomponentsname) that each release runs beside its workers, by \
             name.",
        ),
        key(
            "hosts",
            Kind::OneOrMore(&Kind::Text, bounds::ITEMS_MAX),
            Value("[]"),
            "`Host` of its requests, without port; compared without case. No wildcards. An empty \
             list: any.",
        ),
        key(
            "path",
            Kind::Path,
            Value("\"/\""),
            "Start of the path of its requests; the longest match wins. A `/` at its end is cut off.",
        ),
        key(
            "call_id",
            Kind::OneOrMore(&Kind::Source, bounds::ITEMS_MAX),
            Value(
                "[\"header:X-Call-Id\", \"query:call_id\", \"path:/ws/{call_id}\", \
                 \"form:CallSid\", \"cookie:segue_call\"]",
            ),
            "Where the call id is; the first match wins. Without a match an id is made up.",
        ),
        key(
            "cohort",
            Kind::OneOrMore(&Kind::Source, bounds::ITEMS_MAX),
            Value("[]"),
            "Where the cohort key is. Callers with the same key go to the same release; without one, \
             each call goes by its id.",
        ),
        key(
            "caller",
            Kind::OneOrMore(&Kind::Source, bounds::ITEMS_MAX),
            Value("[\"header:X-Caller\", \"form:From\"]"),
            "Where the caller is, for [rules](#agentsnamerules).",
        ),
        key(
            "tenant",
            Kind::OneOrMore(&Kind::Source, bounds::ITEMS_MAX),
            Value("[\"header:X-Tenant\"]"),
            "Where the tenant is, for rules.",
        ),
        key(
            "stickiness",
            Kind::Duration(&bounds::STICKINESS),
            Value("\"5m\""),
            "How long a call that lost its connection may come back to its release. Not longer than \
             the longest call, never hours: every release is kept at least this long after its last \
             call.",
        ),
        key(
            "straggler_buffer",
            Kind::Duration(&bounds::STRAGGLER_BUFFER),
            Value("\"5m\""),
            "How long a release must be without calls before it is believed empty; at least \
             `stickiness`.",
        ),
        key(
            "standby",
            Kind::Duration(&bounds::STANDBY),
            Value("\"30m\""),
            "How long an empty release is kept running, ready for a rollback.",
        ),
        key(
            "max_tails",
            Kind::Count(&bounds::TAILS),
            Value("3"),
            "How many releases beside the two in use may finish their calls or stand by.",
        ),
        key(
            "on_rollback",
            Kind::Word(&["stay", "move"]),
            Value("\"stay\""),
            "A call that comes back after its release was rolled back stays on it while a worker of \
             it lives, or moves as a new call does.",
        ),
        key(
            "stragglers",
            Kind::Table(&STRAGGLERS),
            None("none: they are waited for"),
            "[What becomes of calls](#agentsnamestragglers) that a draining release still holds after \
             a while.",
        ),
        key(
            "rescue",
            Kind::Table(&RESCUE),
            None("none: they end with it"),
            "[How calls go on](#agentsnamerescue) whose worker dies: at another worker of their \
             release.",
        ),
        key(
            "livekit",
            Kind::Table(&AGENT_LIVEKIT),
            None("none"),
            "[How it takes jobs](#agentsnamelivekit) of LiveKit.",
        ),
        key(
            "ready_timeout",
            Kind::Duration(&bounds::READY_TIMEOUT),
            Value("\"60s\""),
            "How long its workers may take to get ready.",
        ),
        key(
            "hooks",
            Kind::Table(&HOOKS),
            None("none"),
            "[Programs around a release's life](#agentsnamehooks): the two halves of a migration.",
        ),
        key(
            "smoke",
            Kind::Table(&SMOKE),
            None("none"),
            "[The smoke gate](#agentsnamesmoke). Without it no call is made before callers' own.",
        ),
        key(
            "webhooks",
            Kind::Tables(&WEBHOOK, bounds::WEBHOOKS_MAX),
            Value("[]"),
            "[Others who must agree](#agentsnamewebhooks).",
        ),
        key(
            "approval",
            Kind::Table(&APPROVAL),
            None("none"),
            "[Whether a person must agree](#agentsnameapproval).",
        ),
        key(
            "steps",
            Kind::Tables(&STEP, bounds::STEPS_MAX),
            Value("[]"),
            "[The ramp](#agentsnamesteps). Without it a verified release takes all new calls at once.",
        ),
        key(
            "limits",
            Kind::Table(&LIMITS),
            None(""),
            "[When it is rolled back](#agentsnamelimits) by itself.",
        ),
        key(
            "bake",
            Kind::Duration(&bounds::BAKE),
            Value("\"0s\""),
            "How long after the cutover a release may still be rolled back by itself: by its limits, \
             and by smoke calls that are made again and again. The release before it is kept so long.",
        ),
        key(
            "fast_track",
            Kind::Flag,
            Value("true"),
            "Whether a release that was current before, and was never rolled back from, comes back \
             without ramp and approval when it is deployed again. Hooks, smoke calls and webhooks \
             stay.",
        ),
        key(
            "rules",
            Kind::Tables(&RULE, bounds::RULES_MAX),
            Value("[]"),
            "[Calls that go to a named release](#agentsnamerules).",
        ),
    ],
};

pub(in super::super) static COMPONENT: Keys = Keys {
    header: "[agents.NAME.components.NAME]",
    need: Need::Any,
    rows: &[
        key(
            "command",
            Kind::List(&Kind::Text, bounds::ITEMS_MAX),
            Required,
            "Program and arguments; no shell is used.",
        ),
        key(
            "env",
            Kind::Map,
            Value("{}"),
            "Environment, beside what it inherits.",
        ),
        DIRECTORY,
        HEALTH,
        VERSION,
        DEPENDS_ON,
        REQUIRES,
    ],
};

pub(in super::super) static SMOKE: Keys = Keys {
    header: "[agents.NAME.smoke]",
    need: Need::Any,
    rows: &[
        key(
            "scenario",
            Kind::Text,
            Required,
            "Name of the scenario, such as `\"hours\"`.",
        ),
        key(
            "path",
            Kind::Path,
            Value("\"/ws/{call_id}\""),
            "Request path of the calls; `{call_id}` is replaced. One that is not below the agent's \
             `path` gets it in front.",
        ),
        key(
            "calls",
            Kind::Count(&bounds::SMOKE_CALLS),
            Value("1"),
            "How many, one after the other.",
        ),
        key(
            "timeout",
            Kind::Duration(&bounds::SMOKE_TIMEOUT),
            Value("\"60s\""),
            "How long all of them may take.",
        ),
    ],
};

pub(in super::super) static WEBHOOK: Keys = Keys {
    header: "[[agents.NAME.webhooks]]",
    need: Need::Any,
    rows: &[
        key(
            "name",
            Kind::Name,
            Required,
            "What it is called; each is a gate of its own.",
        ),
        url("Who is asked, by POST."),
        secret_file(),
        allow(),
        key(
            "timeout",
            Kind::Duration(&bounds::WEBHOOK_TIMEOUT),
            Value("\"5s\""),
            "How long each try may take.",
        ),
        key(
            "retries",
            Kind::Count(&bounds::WEBHOOK_RETRIES),
            Value("3"),
            "How often it is asked again when no answer came.",
        ),
    ],
};

pub(in super::super) static APPROVAL: Keys = Keys {
    header: "[agents.NAME.approval]",
    need: Need::Any,
    rows: &[key(
        "before",
        Kind::Word(&["ramp", "cutover"]),
        Required,
        "What waits for it: the first call (`\"ramp\"`), or all of them (`\"cutover\"`).",
    )],
};

pub(in super::super) static HOOKS: Keys = Keys {
    header: "[agents.NAME.hooks]",
    need: Need::Any,
    rows: &[
        key(
            "before_deploy",
            Kind::Table(&HOOK_BEFORE),
            None("none"),
            "[Expand](#agentsnamehooksbefore_deploy): runs before the first worker of a release is \
             started. What it changes must suit older releases too.",
        ),
        key(
            "after_retire",
            Kind::Table(&HOOK_AFTER),
            None("none"),
            "[Contract](#agentsnamehooksafter_retire): runs once no process of an older release is \
             left.",
        ),
    ],
};

/// The keys of a hook.
const HOOK: &[Key] = &[
    key(
        "command",
        Kind::List(&Kind::Text, bounds::ITEMS_MAX),
        Required,
        "Program and arguments; no shell is used. `{release}` and `{agent}` are replaced.",
    ),
    key(
        "timeout",
        Kind::Duration(&bounds::HOOK_TIMEOUT),
        Value("\"5m\""),
        "How long it may take; then it is ended and has failed.",
    ),
];

pub(in super::super) static HOOK_BEFORE: Keys = Keys {
    header: "[agents.NAME.hooks.before_deploy]",
    need: Need::Any,
    rows: HOOK,
};

pub(in super::super) static HOOK_AFTER: Keys = Keys {
    header: "[agents.NAME.hooks.after_retire]",
    need: Need::Any,
    rows: HOOK,
};

/// What a step may wait for.
pub(in super::super) const STEP_CONDITIONS: [&str; 3] = ["min_calls", "min_duration", "pause"];

pub(in super::super) static STEP: Keys = Keys {
    header: "[[agents.NAME.steps]]",
    need: Need::Of(&STEP_CONDITIONS),
    rows: &[
        key(
            "share",
            Kind::Share(&bounds::STEP_SHARE),
            Required,
            "Share of new calls for the new release; above that of the step before.",
        ),
        key(
            "min_calls",
            Kind::Calls(&bounds::CALLS),
            None("none"),
            "Calls of the new release that must have ended in this step.",
        ),
        key(
            "min_duration",
            Kind::Duration(&bounds::STEP_DURATION),
            Value("\"0s\""),
            "How long the step lasts at least.",
        ),
        key(
            "pause",
            Kind::Flag,
            Value("false"),
            "Whether it then waits for `segue resume` or `segue promote`.",
        ),
    ],
};

pub(in super::super) static LIMITS: Keys = Keys {
    header: "[agents.NAME.limits]",
    need: Need::Any,
    rows: &[
        key(
            "drops",
            Kind::Share(&bounds::LIMIT_SHARE),
            Value("\"2%\""),
            "Share of ended calls that may be dropped.",
        ),
        key(
            "errors",
            Kind::Share(&bounds::LIMIT_SHARE),
            Value("\"5%\""),
            "Share of started calls that may fail to get through.",
        ),
        key(
            "min_calls",
            Kind::Calls(&bounds::CALLS),
            Value("20"),
            "Below this many calls the share is taken of this number, so that one bad call does not \
             decide.",
        ),
    ],
};

pub(in super::super) static STRAGGLERS: Keys = Keys {
    header: "[agents.NAME.stragglers]",
    need: Need::Any,
    rows: &[
        key(
            "policy",
            Kind::Word(&["wait", "announce", "hand-off", "end"]),
            Value("\"wait\""),
            "`\"wait\"`: nothing, they end by themselves. `\"announce\"`: their worker is asked to \
             wind up. `\"hand-off\"`: their worker is asked to hand them off, and one that comes back \
             goes by the split. `\"end\"`: they are ended, which is audited and counted.",
        ),
        key(
            "ceiling",
            Kind::Duration(&bounds::CEILING),
            None("none"),
            "How long after its drain began; must be given unless the policy is `\"wait\"`, and must \
             not with it.",
        ),
        key(
            "jitter",
            Kind::Duration(&bounds::JITTER),
            Value("\"30s\""),
            "Each call's turn comes at a moment of its own within this time.",
        ),
        key(
            "per_second",
            Kind::Count(&bounds::PER_SECOND),
            Value("5"),
            "At most this many calls a second.",
        ),
    ],
};

pub(in super::super) static RESCUE: Keys = Keys {
    header: "[agents.NAME.rescue]",
    need: Need::Any,
    rows: &[key(
        "opening_messages",
        Kind::Count(&bounds::OPENING_MESSAGES),
        Value("2"),
        "How many of the caller's first messages the other worker is told again; Twilio's `connected` \
         and `start` are the first two. More than 64 KiB are not kept, and such a call ends with \
         its worker.",
    )],
};

/// The four ways to say which calls a rule is about.
pub(in super::super) const RULE_CONDITIONS: [&str; 4] = ["header", "caller", "tenant", "list"];

pub(in super::super) static RULE: Keys = Keys {
    header: "[[agents.NAME.rules]]",
    need: Need::OneOf(&RULE_CONDITIONS),
    rows: &[
        key(
            "header",
            Kind::Text,
            None(""),
            "`\"NAME\"`: the header is there. `\"NAME=value\"`: it has exactly this value.",
        ),
        key(
            "caller",
            Kind::OneOrMore(&Kind::Text, bounds::LISTED_MAX),
            None(""),
            "The caller is one of these.",
        ),
        key(
            "tenant",
            Kind::OneOrMore(&Kind::Text, bounds::LISTED_MAX),
            None(""),
            "The tenant is one of these.",
        ),
        key(
            "list",
            Kind::OneOrMore(&Kind::Text, bounds::LISTED_MAX),
            None(""),
            "The cohort key, or without one the call id, is one of these.",
        ),
        key(
            "release",
            Kind::Text,
            Required,
            "Label or digest of the release.",
        ),
    ],
};
