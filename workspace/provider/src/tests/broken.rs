//! Mistakes in provider files.

use crate::file::Description;

#[test]
fn a_broken_file_names_its_line_and_what_would_be_right() {
    let good = include_str!("../../providers/twilio.toml");
    for (from, to, expected) in [
        ("kind = \"basic\"", "kind = \"basicc\"", "unknown variant"),
        ("channels = [\"sms\"]", "channels = [\"smss\"]", "unknown variant"),
        (
            "channels = [\"sms\"]",
            "channels = []",
            "channels: is empty; accepted: some of sms",
        ),
        ("message_id = \"sid\"", "message_idd = \"sid\"", "unknown field"),
        (
            "meaning = \"accepted\"",
            "meaning = \"rejected\"",
            "no rule has meaning",
        ),
        ("status = 201", "status = 999", "accepted: 201, \"2xx\""),
        ("path = \"/2010", "path = \"2010", "must begin with /"),
        (
            "path = \"/2010",
            "url = \"https://x\"\npath = \"/2010",
            "either `path` or `url`",
        ),
        (
            "base_url = \"https://api",
            "base_url = \"htps://api",
            "base_url: cannot be a base address",
        ),
        ("{{ payload.message }}", "{{ payload.message", "without its `}}`"),
        (
            "{{ payload.message }}",
            "{{ payload.message | nope }}",
            "filter nope",
        ),
        (
            "{{ payload.message }}",
            "{{ secret.message }}",
            "accepted: payload, account, event",
        ),
        (
            "{{ payload.message }}",
            "{{ account.auth_token }}",
            "account.auth_token is not defined",
        ),
        (
            "name = \"twilio\"",
            "name = \"Twilio!\"",
            "accepted: small letters",
        ),
        ("[auth]", "[autz]", "unknown field"),
        ("\n[sandbox]\npath", "\n[sandbox]\npathh", "unknown field"),
        ("about = \"auth token\", ", "", "missing field"),
    ] {
        let broken = good.replacen(from, to, 1);
        assert_ne!(broken, good, "{from}");
        let line = 1 + good[..good.find(from).unwrap()].matches('\n').count();
        let line =
            line + usize::from(from.starts_with('\n')) + usize::from(from.starts_with("\n[sandbox]\n"));
        let error = Description::load("f.toml", &broken).err().unwrap().to_string();
        assert!(error.contains(expected), "{to}: {error}");
        // Where the mistake is that something is missing, the line is that of the table.
        let exact = error.starts_with(&format!("f.toml:{line}: "));
        let missing = ["no rule", "either", "missing field", "must begin"]
            .iter()
            .any(|word| error.contains(word));
        assert!(exact || missing, "{to}: not at line {line}: {error}");
    }
}
