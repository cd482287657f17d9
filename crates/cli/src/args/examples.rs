//! Two or three lines for the end of each page of help: what people type most.

pub(super) const INIT: &str = "\
Examples:\n\
\x20 segue init                     a file to start from, with every key\n\
\x20 segue init /etc/segue/segue.toml";
pub(super) const SERVE: &str = "\
Examples:\n\
\x20 segue serve                    with ./segue.toml and the state in ./.segue\n\
\x20 segue --home /var/lib/segue serve --config /etc/segue/segue.toml";
pub(super) const DISPATCH: &str = "\
Examples:\n\
\x20 segue dispatch                 with [livekit] of ./segue.toml, beside a running controller\n\
\x20 segue dispatch --config /etc/segue/segue.toml --id dispatch-2";
pub(super) const STOP: &str = "\
Examples:\n\
\x20 segue stop                     waits for the live calls, then ends everything";
pub(super) const RELOAD: &str = "\
Examples:\n\
\x20 segue config check && segue reload\n\
\x20 segue reload --output json";
pub(super) const UPGRADE: &str = "\
Examples:\n\
\x20 segue upgrade                  to this very binary\n\
\x20 segue upgrade --binary /opt/segue/0.2/segue\n\
\x20 segue upgrade --output json | jq .outcome";
pub(super) const PLAN: &str = "\
Examples:\n\
\x20 segue plan                     what the next deploy would do\n\
\x20 segue plan v2 --workers 4      with other room than segue.toml says\n\
\x20 segue plan v3 --prompt shorter.txt\n\
\x20 segue plan --output json | jq .missing";
pub(super) const STATUS: &str = "\
Examples:\n\
\x20 segue status\n\
\x20 segue status --watch\n\
\x20 segue status --output json | jq '.agents[0].phase'";
pub(super) const TOP: &str = "\
Examples:\n\
\x20 segue top\n\
\x20 segue top --once               one frame as text, for a log or a ticket";
pub(super) const CALLS: &str = "\
Examples:\n\
\x20 segue calls\n\
\x20 segue calls --limit 10 --output json";
pub(super) const WORKERS: &str = "\
Examples:\n\
\x20 segue workers                  of the only agent\n\
\x20 segue workers receptionist --release v2\n\
\x20 segue workers --output json | jq '.workers[] | select(.state == \"draining\")'";
pub(super) const WORKERS_INSPECT: &str = "\
Examples:\n\
\x20 segue workers inspect AW_x7    the beginning of its id is enough";
pub(super) const WORKERS_DRAIN: &str = "\
Examples:\n\
\x20 segue workers drain AW_x7 --reason \"the host is rebooted\"";
pub(super) const WORKERS_UNDRAIN: &str = "\
Examples:\n\
\x20 segue workers undrain AW_x7";
pub(super) const WORKERS_KICK: &str = "\
Examples:\n\
\x20 segue workers kick AW_x7 --yes --reason \"it hangs\"";
pub(super) const PAUSE: &str = "\
Examples:\n\
\x20 segue pause --reason \"looking at the drops\"\n\
\x20 segue pause --agent receptionist";
pub(super) const RESUME: &str = "\
Examples:\n\
\x20 segue resume\n\
\x20 segue resume --revision 12     only if nobody decided since";
pub(super) const PROMOTE: &str = "\
Examples:\n\
\x20 segue promote                  the next share\n\
\x20 segue promote --full           all new calls, once there is room\n\
\x20 segue promote --full --skip-gates --reason \"the old one is on fire\"";
pub(super) const ABORT: &str = "\
Examples:\n\
\x20 segue abort --reason \"wrong build\"";
pub(super) const DRAIN: &str = "\
Examples:\n\
\x20 segue drain --reason maintenance\n\
\x20 segue drain v1 --agent receptionist";
pub(super) const RETIRE: &str = "\
Examples:\n\
\x20 segue retire                   the drained release, if there is one\n\
\x20 segue retire v1";
pub(super) const HISTORY: &str = "\
Examples:\n\
\x20 segue history\n\
\x20 segue history --limit 5 --output json";
pub(super) const EXPLAIN: &str = "\
Examples:\n\
\x20 segue explain                  the last rollout\n\
\x20 segue explain 7                number 7, as in `segue history`\n\
\x20 segue explain --output json | jq '.decisions[].what'";
pub(super) const AUDIT: &str = "\
Examples:\n\
\x20 segue audit\n\
\x20 segue audit --after 120 --output json\n\
\x20 segue audit --event deployment.rolled_back\n\
\x20 segue audit tail               as they are written\n\
\x20 segue audit verify             whether the chain of digests holds";
pub(super) const AUDIT_TAIL: &str = "\
Examples:\n\
\x20 segue audit tail\n\
\x20 segue audit tail --event deployment.started --output json | ./to-siem";
pub(super) const AUDIT_EXPORT: &str = "\
Examples:\n\
\x20 segue audit export > audit.jsonl\n\
\x20 segue audit export --after 120 --agent desk >> audit.jsonl";
pub(super) const FORGET: &str = "\
Examples:\n\
\x20 segue forget gw-1 --reason \"the host is gone\"";
pub(super) const DOCTOR: &str = "\
Examples:\n\
\x20 segue doctor                   ./segue.toml, and what runs of it\n\
\x20 segue doctor --config /etc/segue/segue.toml\n\
\x20 segue doctor --output json | jq '.findings[] | select(.level != \"ok\")'";
pub(super) const CONFIG_CHECK: &str = "\
Examples:\n\
\x20 segue config check\n\
\x20 segue config check /etc/segue/segue.toml --output json";
pub(super) const DEMO: &str = "\
Examples:\n\
\x20 segue demo\n\
\x20 segue demo --callers 80 --seed 7\n\
\x20 segue demo --sabotage kill-worker    exit code 1: the judge notices";
pub(super) const BENCH: &str = "\
Examples:\n\
\x20 segue bench                    everything, beside every proxy that is installed\n\
\x20 segue bench load --against haproxy,relay --calls 300 --rounds 3\n\
\x20 segue bench idle rate --tls --envoy /opt/envoy/bin/envoy\n\
\x20 segue bench --output json | tail -1 | jq .rate_calls_per_s";
pub(super) const SAMPLE_AGENT: &str = "\
Examples:\n\
\x20 segue sample-agent --port 9000\n\
\x20 segue sample-agent --port 9000 --fault drop:3000@10";
pub(super) const COMPLETIONS: &str = "\
Examples:\n\
\x20 segue completions bash > ~/.local/share/bash-completion/completions/segue\n\
\x20 segue completions zsh > \"${fpath[1]}/_segue\"";
pub(super) const MAN: &str = "\
Examples:\n\
\x20 segue man > segue.1\n\
\x20 segue man --dir /usr/local/share/man/man1";
pub(super) const CONFIG: &str = "\
Examples:\n\
\x20 segue config check             every fault, with its place\n\
\x20 segue config schema > segue.schema.json\n\
\x20 segue config reference         every key, as Markdown";
pub(super) const CONFIG_SCHEMA: &str = "\
Examples:\n\
\x20 segue config schema > segue.schema.json";
pub(super) const CONFIG_REFERENCE: &str = "\
Examples:\n\
\x20 segue config reference | less";
pub(super) const DEPLOY: &str = "\
Examples:\n\
\x20 segue deploy v1                the command of segue.toml\n\
\x20 segue deploy v2 -- ./agent --port {port}\n\
\x20 segue deploy v3 --prompt shorter.txt      the current release, with another prompt\n\
\x20 segue deploy v4 --env engine:THREADS=4 --wait none";
pub(super) const ROLLBACK: &str = "\
Examples:\n\
\x20 segue rollback\n\
\x20 segue rollback --reason \"callers are not understood\"\n\
\x20 segue rollback --only prompt   the current release, with the prompt of the one before";
pub(super) const APPROVE: &str = "\
Examples:\n\
\x20 segue approve v2 --reason \"heard three calls\"   only if v2 still comes in";
pub(super) const CONTRACT: &str = "\
Examples:\n\
\x20 segue contract                 of the current release\n\
\x20 segue contract v2 --reason \"the column is free now\"";
pub(super) const DIFF: &str = "\
Examples:\n\
\x20 segue diff                     what a rollback would change\n\
\x20 segue diff v1 v2\n\
\x20 segue diff v1 v2 --output json | jq '.changes[].field'";
pub(super) const PERMITS: &str = "\
Examples:\n\
\x20 segue permits\n\
\x20 segue permits --output json | jq '.permits[].call'";
pub(super) const LOGS: &str = "\
Examples:\n\
\x20 segue logs                     everything that the current release runs\n\
\x20 segue logs v2 --follow\n\
\x20 segue logs v2 --component engine\n\
\x20 segue logs hooks";
pub(super) const TOKEN: &str = "\
Examples:\n\
\x20 segue token create ann --role operator > ann.token\n\
\x20 segue token list\n\
\x20 segue token revoke ann";
pub(super) const TOKEN_CREATE: &str = "\
Examples:\n\
\x20 segue token create ann --role operator\n\
\x20 segue token create pipeline --role operator --expires-in 8h\n\
\x20 segue token create dialler --role worker --agent desk > desk.token";
pub(super) const API: &str = "\
Examples:\n\
\x20 segue api openapi > openapi.json";
pub(super) const MEMBERSHIP: &str = "\
Examples:\n\
\x20 segue membership keygen r.pem\n\
\x20 segue membership rotate --env prod --root r.jwk --manifest m.jwk --worker w.jwk --sign r.pem\n\
\x20 segue membership sign --key m.pem            what runs now is admitted\n\
\x20 segue membership token --key w.pem --agent desk --release v1";
pub(super) const MEMBERSHIP_KEYGEN: &str = "\
Examples:\n\
\x20 segue membership keygen r.pem                and r.jwk, for everybody";
pub(super) const MEMBERSHIP_ROTATE: &str = "\
Examples:\n\
\x20 segue membership rotate --env prod --root r.jwk --manifest m.jwk --worker w.jwk --sign r.pem\n\
\x20 segue membership rotate --worker w2.jwk --sign r.pem      a second key, beside the first\n\
\x20 segue membership rotate --cosign --sign r2.pem            a set that waits for it";
pub(super) const MEMBERSHIP_SIGN: &str = "\
Examples:\n\
\x20 segue membership sign --key m.pem            what runs now is admitted\n\
\x20 segue membership sign --key m.pem --renew    the same again, for 15 more minutes";
pub(super) const MEMBERSHIP_TOKEN: &str = "\
Examples:\n\
\x20 segue membership token --key w.pem --agent desk --release v2 --manifest manifest.jws\n\
\x20 segue membership token --key w.pem --agent desk --release v2 --url ws://127.0.0.1:7080";
pub(super) const MEMBERSHIP_VERIFY: &str = "\
Examples:\n\
\x20 segue membership verify keys.jsonl\n\
\x20 segue membership verify manifest.jws --output json | jq -r .reason\n\
\x20 segue membership verify worker.jwt --manifest manifest.jws";
pub(super) const MEMBERSHIP_SHOW: &str = "\
Examples:\n\
\x20 segue membership show keys.jsonl\n\
\x20 segue membership show manifest.jws --output json | jq .claims.ver";
pub(super) const MEMBERSHIP_REVOKE: &str = "\
Examples:\n\
\x20 segue membership revoke --token 5d0c4e --sign m.pem\n\
\x20 segue membership revoke --release v1 --sign m.pem\n\
\x20 segue membership revoke --worker desk-7 --sign m.pem --expires-in 5m";
