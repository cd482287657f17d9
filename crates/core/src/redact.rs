//! What looks like a secret is not shown to people: the one rule, for whoever shows releases,
//! commands or environments.
//!
//! It looks at names and at values, and rather hides too much. A secret in an odd place under an
//! innocent name is not found: whoever may see releases is asked for a token for that reason.

/// What stands for a value that is not shown.
pub const REDACTED: &str = "***";

/// A name is secret if a word of it ends so: `OPENAI_API_KEY`, `db.password`, `smtpPass`, `OAUTH2`.
const ENDS: [&str; 16] = [
    "KEY",
    "TOKEN",
    "SECRET",
    "PASS",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PASSCODE",
    "PWD",
    "CREDENTIAL",
    "CRED",
    "AUTH",
    "AUTHORIZATION",
    "DSN",
    "PRIVATE",
    "COOKIE",
];

/// Values that begin so, in the words of HTTP and PEM, are secret whatever their name.
const BEGINNINGS: [&str; 4] = ["BEARER ", "BASIC ", "-----BEGIN ", "AUTHORIZATION:"];

/// Whether a name says that its value is for few eyes.
pub fn is_secret_name(name: &str) -> bool {
    words_of(name).iter().any(|word| {
        let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let one = word.strip_suffix('S').unwrap_or(word);
        ENDS.iter()
            .any(|end| word.ends_with(end) || one.ends_with(end))
    })
}

/// Whether a value is for few eyes whatever its name: an address with a user in it, a header or a
/// key as such, or `name=value` inside it with a secret name.
pub fn is_secret_value(value: &str) -> bool {
    let upper = value.trim_start().to_ascii_uppercase();
    if BEGINNINGS.iter().any(|begin| upper.starts_with(begin)) {
        return true;
    }
    let mut addresses = value.split("://").skip(1);
    if addresses.any(has_user) {
        return true;
    }
    let pairs = value.split(|c: char| c.is_whitespace() || "?&;,#".contains(c));
    let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
    pairs.any(|(name, value)| !value.is_empty() && is_secret_name(name))
}

/// Whether the value of a variable is not shown.
pub fn hides(name: &str, value: &str) -> bool {
    is_secret_name(name) || is_secret_value(value)
}

/// The words of a command as they may be shown: without values of options with a secret name, and
/// without secret values.
pub fn command(words: &[String]) -> Vec<String> {
    let mut hide_next = false;
    let word = |word: &String| {
        let hidden = std::mem::take(&mut hide_next);
        let flag = word.trim_start_matches('-');
        let is_flag = flag.len() < word.len();
        match word.split_once('=') {
            _ if hidden => REDACTED.to_owned(),
            Some((name, value)) if hides(name, value) => format!("{name}={REDACTED}"),
            None if is_flag && is_secret_name(flag) => {
                hide_next = true;
                word.clone()
            }
            _ if is_secret_value(word) => REDACTED.to_owned(),
            _ => word.clone(),
        }
    };
    words.iter().map(word).collect()
}

/// Whether what follows `://` begins with a user or a password.
fn has_user(rest: &str) -> bool {
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    host.contains('@')
}

/// The words of a name, in capitals: `dbPassword2` and `DB_PASSWORD2` are two each.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() || was_lower && c.is_ascii_uppercase() {
            words.push(String::new());
        }
        was_lower = c.is_ascii_lowercase();
        if let Some(word) = words.last_mut()
            && c.is_ascii_alphanumeric()
        {
            word.push(c.to_ascii_uppercase());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known_by_their_words() {
        for name in [
            "OPENAI_API_KEY",
            "key",
            "apikey",
            "apiKey",
            "SSH_KEYS",
            "X_TOKEN_2",
            "HF_TOKEN",
            "client-secret",
            "SECRET_NAME",
            "db_password",
            "DB_PASSWD",
            "dbPassword",
            "SMTP_PASS",
            "PGPASSWORD",
            "MYSQL_PWD",
            "AWS_CREDENTIALS",
            "BASIC_AUTH",
            "OAUTH2",
            "Authorization",
            "SENTRY_DSN",
            "PRIVATE_PEM",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "GREETING",
            "KEYBOARD",
            "AUTHOR",
            "PASSENGERS_MAX",
            "TOKENIZERS_PARALLELISM",
            "LANG",
            "PATH",
            "S",
            "",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn secret_values_are_known_whatever_their_name() {
        for value in [
            "postgres://u:hunter2@db/x",
            "https://0123abcd@o1.ingest.sentry.io/1",
            "amqp://host-a,amqp://u:p@host-b",
            "host=db user=me password=hunter2",
            "Server=db;Pwd=hunter2",
            "https://api.example/v1?token=hunter2",
            "Bearer hunter2",
            "Authorization: Bearer hunter2",
            "-----BEGIN PRIVATE KEY-----\nhunter2",
        ] {
            assert!(is_secret_value(value), "{value}");
        }
        for value in [
            "",
            "hello",
            "you@example.org",
            "https://api.example/v1?to=you@example.org",
            "https://api.example/v1?lang=de",
            "password=",
            "redis://cache:6379/0",
            "http://127.0.0.1:4318",
        ] {
            assert!(!is_secret_value(value), "{value}");
        }
        assert!(hides("DATABASE_URL", "postgres://u:hunter2@db/x"));
        assert!(hides("API_KEY", "one"));
        assert!(!hides("DATABASE_URL", "postgres://db/x"));
    }

    #[test]
    fn commands_are_shown_without_their_secrets() {
        let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
        let shown = command(&words(
            "bot --port {port} --api-key hunter2 --password=hunter2 DB=redis://u:hunter2@h/0 \
             redis://u:hunter2@h/0 --name=desk",
        ));
        assert_eq!(
            shown,
            words("bot --port {port} --api-key *** --password=*** DB=*** *** --name=desk")
        );
    }
}
