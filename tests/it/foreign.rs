//! Other people's clients: kafkajs, kcat, the Node MongoDB driver, standardwebhooks, the providers' SDKs. Needs Node.js and npm, so it is
//! behind the feature `foreign`; `./test.sh` runs it where they are, and says so where they are not.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::system::{Backend, Plan, posthaste};

/// 32 bytes of no importance.
const WEBHOOK_SECRET: &str = "whsec_cG9zdGhhc3RlIGZvcmVpZ24gdGVzdCBzZWNyZXQgISE=";

#[tokio::test]
async fn foreign_clients_read_and_verify() {
    let folder = installed("foreign").await;
    let system = Plan::new(Backend::Kafka)
        .await
        .setting("POSTHASTE_PROVIDER__ALLOWED_CIDRS", r#"["127.0.0.0/8"]"#)
        .setting("POSTHASTE_PROVIDERS__WEBHOOK__SECRET", WEBHOOK_SECRET)
        .start()
        .await;
    let place = system.place();
    let output = run(Command::new("node")
        .arg("check.mjs")
        .current_dir(&folder)
        .env("BOOTSTRAP", &place.bootstrap)
        .env("PREFIX", &place.prefix)
        .env("MONGODB_URI", &place.mongodb)
        .env("DATABASE", &place.prefix)
        .env("INGESTION", system.url("ingestion"))
        .env("WEBHOOK_SECRET", WEBHOOK_SECRET))
    .await;
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

/// The same message by us and by the provider's own SDK is the same request, but for what the script lists with its reason.
#[tokio::test]
async fn our_requests_are_those_of_the_sdks() {
    let folder = installed("sdks").await;
    for script in ["compare.mjs", "apns.mjs", "mail.mjs"] {
        let data = tempfile::tempdir().unwrap();
        let output = run(Command::new("node")
            .arg(script)
            .current_dir(&folder)
            .env("POSTHASTE", posthaste(&[]).get_program())
            .env("DATA", data.path()))
        .await;
        println!("{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// A folder of scripts, with what its lock file says and nothing newer.
async fn installed(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    run(Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--loglevel", "error"])
        .current_dir(&folder))
    .await;
    folder
}

async fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    let mut command = std::mem::replace(command, Command::new(""));
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{shown}: {error}; install Node.js and npm"));
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{shown} failed:\n{said}");
    output
}
