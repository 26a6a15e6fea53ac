//! `posthaste api-keys …`: makes keys. Nothing is kept of them here.

use posthaste_service::auth::{mint, settings::Client};
use serde_json::json;

use crate::{
    cli::api_keys::{ApiKeys, Generate},
    command::{print, print_json},
    failure::Failure,
};

/// `posthaste api-keys …`.
pub fn api_keys(command: ApiKeys) -> Result<(), Failure> {
    match command {
        ApiKeys::Generate(options) => generate(&options),
    }
}

fn generate(options: &Generate) -> Result<(), Failure> {
    let name = &options.name;
    let named = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if name.is_empty() || !name.chars().all(named) {
        return Err(Failure::Usage(format!(
            "--name {name:?} is no name; accepted: letters, digits, dashes and underscores"
        )));
    }
    let minted = mint().map_err(Failure::Runtime)?;
    let client = Client {
        key_id: minted.id,
        hash: minted.hash,
        tenant: options.tenant.clone(),
        roles: options.roles.clone(),
        channels: (!options.channels.is_empty()).then(|| options.channels.clone()),
        configs: (!options.configs.is_empty()).then(|| options.configs.clone()),
        expires_at: options.expires_at.clone(),
    };
    client
        .check(name)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    if options.json {
        return print_json(&json!({
            "name": name, "key": minted.key, "keyId": client.key_id, "hash": client.hash, "tenant": client.tenant,
            "roles": client.roles, "channels": client.channels, "configs": client.configs,
            "expiresAt": client.expires_at,
        }));
    }
    print(&format!(
        "The key, which is shown this once: {}\n\n{}",
        minted.key,
        table(name, &client)
    ))
}

/// The table of the configuration.
fn table(name: &str, client: &Client) -> String {
    let list = |words: &[String]| toml::Value::from(words.to_vec());
    let mut lines = vec![
        format!("[service.auth.clients.{name}]"),
        format!("key_id = {:?}", client.key_id),
        format!("hash = {:?}", client.hash),
        format!("tenant = {:?}", client.tenant),
        format!("roles = {}", list(&client.roles)),
    ];
    for (key, words) in [("channels", &client.channels), ("configs", &client.configs)] {
        lines.extend(words.as_deref().map(|words| format!("{key} = {}", list(words))));
    }
    lines.extend(
        client
            .expires_at
            .as_ref()
            .map(|at| format!("expires_at = {at:?}")),
    );
    lines.join("\n") + "\n"
}
