//! What configurations come to.

use posthaste_event::Channel;

use super::load;

const SANDBOX: Option<&str> = Some("http://127.0.0.1:3010/sandbox");

/// Expects that loading `changes` fails with an error that has all of `parts`.
fn refused(changes: &str, sandbox: Option<&str>, parts: &[&str]) {
    let error = load(changes, sandbox).err().map(|error| error.to_string());
    let error = error.unwrap_or_else(|| panic!("was taken: {changes}"));
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn every_channel_has_an_account_by_default() {
    let registry = load("", SANDBOX).unwrap();
    for (channel, name) in [
        (Channel::Sms, "messagebird"),
        (Channel::Email, "sendgrid"),
        (Channel::Push, "firebase"),
        (Channel::Slack, "slack"),
        (Channel::Webhook, "webhook"),
        (Channel::InApp, "in_app"),
    ] {
        assert_eq!(registry.default_for(channel).unwrap().name, name);
    }
    assert!(registry.knows(Channel::Sms, "twilio"));
    assert!(!registry.knows(Channel::Email, "twilio"));
    assert!(!registry.knows(Channel::Sms, "nobody"));
    assert_eq!(
        registry.names_for(Channel::Email),
        ["mailgun", "sendgrid", "smtp"]
    );
    assert_eq!(
        registry.names_for(Channel::Push),
        ["apns", "firebase", "onesignal"]
    );
}

#[test]
fn a_provider_can_have_several_accounts() {
    let registry = load(
        r#"
        [providers.alerts]
        kind = "twilio"
        account_sid = "AC1"
        auth_token = "token-of-alerts"
        from = "+12025550100"
        concurrency_max = "7"
        [provider.defaults]
        sms = "alerts"
        "#,
        SANDBOX,
    )
    .unwrap();
    let account = registry.default_for(Channel::Sms).unwrap();
    assert_eq!(
        (account.name.as_str(), account.provider.name()),
        ("alerts", "twilio")
    );
    assert_eq!(account.concurrency_max, 7);
    assert_eq!(
        registry.for_provider(Channel::Sms, "twilio").unwrap().name,
        "twilio"
    );
    assert_eq!(
        registry.for_provider(Channel::Sms, "alerts").unwrap().name,
        "alerts"
    );
}

#[test]
fn without_a_sandbox_accounts_without_credentials_are_out_of_use() {
    let registry = load(
        r#"
        [providers.alerts]
        kind = "twilio"
        account_sid = "AC1"
        auth_token = "token-of-alerts"
        from = "+12025550100"
        "#,
        None,
    )
    .unwrap();
    assert_eq!(registry.names_for(Channel::Sms), ["alerts"]);
    assert_eq!(
        registry.for_provider(Channel::Sms, "twilio").unwrap().name,
        "alerts"
    );
    assert!(registry.default_for(Channel::Sms).is_none());
    assert!(registry.lacks_credentials("messagebird"));
    assert!(registry.lacks_credentials("smtp"));
    assert!(!registry.lacks_credentials("alerts"));
    assert!(!registry.lacks_credentials("pigeon"));
}

#[test]
fn a_wrong_configuration_is_refused_by_the_name_of_its_key() {
    refused(
        "",
        None,
        &[
            "providers",
            "none of them has credentials",
            "provider.sandbox_url",
        ],
    );
    let twilio = |line: &str| format!("[providers.twilio]\n{line}");
    refused(
        &twilio("auth_tokn = \"x\""),
        SANDBOX,
        &["providers.twilio.auth_tokn", "unknown key", "auth_token"],
    );
    refused(
        &twilio("auth_token = \"x\""),
        SANDBOX,
        &["providers.twilio.account_sid", "is missing"],
    );
    refused(
        &twilio("auth_token = true"),
        SANDBOX,
        &["providers.twilio.auth_token", "boolean"],
    );
    refused(
        &twilio("auth_token_file = \"/nowhere/x\""),
        SANDBOX,
        &["providers.twilio.auth_token_file", "cannot be read"],
    );
    refused(
        &twilio("timeout_ms = 0"),
        SANDBOX,
        &["providers.twilio.timeout_ms", "1 to"],
    );
    refused(
        &twilio("timeout_ms = 3000"),
        SANDBOX,
        &["providers.twilio.timeout_ms", "connect_timeout_ms"],
    );
    refused(
        &twilio("concurrency_max = -1"),
        SANDBOX,
        &["providers.twilio.concurrency_max"],
    );
    refused(
        &twilio("base_url = \"ftp://x\""),
        SANDBOX,
        &["providers.twilio.base_url", "base address"],
    );
    refused(
        &twilio("kind = \"twillio\""),
        SANDBOX,
        &["providers.twilio.kind", "messagebird"],
    );
    refused(
        "[providers.Big]\nkind = \"twilio\"",
        SANDBOX,
        &["providers.Big", "small letters"],
    );
    refused(
        "[provider]\nallowed_cidrs = [\"10.0.0.0/99\"]",
        SANDBOX,
        &["provider.allowed_cidrs", "10.0.0.0/99"],
    );
    refused(
        "[provider.defaults]\nsms = \"sendgrid\"",
        SANDBOX,
        &["provider.defaults.sms", "messagebird, twilio"],
    );
    refused(
        "[providers.webhook]\nsecret = \"whsec_c2hvcnQ=\"",
        SANDBOX,
        &["providers.webhook.secret", "24 to 64"],
    );
    refused(
        "[providers.firebase]\nservice_account = \"{}\"",
        SANDBOX,
        &["providers.firebase.service_account", "JSON key"],
    );
    refused("", Some("not an address"), &["provider.sandbox_url"]);
}

#[test]
fn secrets_can_come_from_files_and_are_never_in_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "hush-hush\n").unwrap();
    let changes = format!(
        "[providers.twilio]\naccount_sid = \"AC1\"\nfrom = \"+12025550100\"\nauth_token_file = {path:?}\n"
    );
    load(&changes, SANDBOX).unwrap();
    let both = format!("{changes}auth_token = \"hush-hush\"\n");
    let error = load(&both, SANDBOX).err().unwrap().to_string();
    assert!(error.contains("both given") && !error.contains("hush"), "{error}");
}

#[test]
fn a_file_of_the_users_own_becomes_a_provider() {
    let folder = tempfile::tempdir().unwrap();
    let text = include_str!("../../providers/twilio.toml").replace("\"twilio\"", "\"carrier\"");
    std::fs::write(folder.path().join("carrier.toml"), &text).unwrap();
    let changes = format!("[provider]\nfiles_folder = {:?}", folder.path());
    assert!(load(&changes, SANDBOX).unwrap().knows(Channel::Sms, "carrier"));

    let broken = text.replace("payload.message", "payload.mesage");
    let line = 1 + broken.lines().position(|line| line.contains("mesage")).unwrap();
    std::fs::write(folder.path().join("carrier.toml"), broken).unwrap();
    refused(
        &changes,
        SANDBOX,
        &[
            &format!("carrier.toml:{line}: request.form.Body"),
            "payload.mesage is not defined",
        ],
    );
}

#[test]
fn a_proxy_and_ranges_must_be_some() {
    for (changes, parts) in [
        (
            "refused_cidrs = [\"10.0.0\"]",
            ["provider.refused_cidrs", "10.0.0"],
        ),
        ("proxy = \"proxy.example.com\"", ["provider.proxy", "environment"]),
        (
            "proxy = \"socks5://proxy.example.com\"",
            ["provider.proxy", "environment"],
        ),
        (
            "proxy_webhooks = true",
            ["provider.proxy_webhooks", "no proxy's address"],
        ),
        (
            "proxy = \"environment\"\nproxy_webhooks = true",
            ["provider.proxy_webhooks", "no proxy's address"],
        ),
    ] {
        let settings = super::settings_with(&format!("[provider]\n{changes}"));
        let error = settings.check().unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
}
