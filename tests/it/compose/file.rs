//! `docker-compose.yml` as far as the tests run it: an unknown key is an error, so that nothing in it goes untested by
//! accident.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value as Json;
use yaml_serde::Value as Yaml;

/// The whole file.
#[derive(Debug, Deserialize)]
pub struct File {
    pub services: BTreeMap<String, Service>,
    pub volumes: BTreeMap<String, Option<Json>>,
}

/// One service. What only an engine could act upon is read and left alone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub image: String,
    pub build: Option<String>,
    pub pull_policy: Option<String>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    #[serde(default)]
    pub env_file: Vec<EnvFile>,
    #[serde(default)]
    pub depends_on: BTreeMap<String, Dependency>,
    pub healthcheck: Option<HealthCheck>,
    #[serde(default)]
    pub ports: Vec<String>,
    #[serde(default)]
    pub volumes: Vec<String>,
    #[serde(default)]
    pub deploy: Deploy,
    pub restart: String,
    pub mem_limit: String,
    pub logging: Json,
    #[serde(rename = "stop_grace_period")]
    _stop_grace_period: Option<String>,
    #[serde(rename = "read_only")]
    _read_only: Option<bool>,
    #[serde(rename = "cap_drop")]
    _cap_drop: Option<Vec<String>>,
    #[serde(rename = "security_opt")]
    _security_opt: Option<Vec<String>>,
}

/// A file with further environment.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvFile {
    pub path: String,
    pub required: bool,
}

/// What must hold of another service first.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    pub condition: Condition,
}

/// When a service is far enough for those that depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Condition {
    #[serde(rename = "service_started")]
    Started,
    #[serde(rename = "service_healthy")]
    Healthy,
    #[serde(rename = "service_completed_successfully")]
    Completed,
}

/// How an engine finds out whether a container is well.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    #[serde(default)]
    pub test: Vec<String>,
    #[serde(default)]
    pub disable: bool,
    #[serde(rename = "interval")]
    _interval: Option<String>,
    #[serde(rename = "timeout")]
    _timeout: Option<String>,
    #[serde(rename = "retries")]
    _retries: Option<u32>,
    #[serde(rename = "start_period")]
    _start_period: Option<String>,
}

/// How many containers there are unless `--scale` says otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    pub replicas: u32,
}

impl Default for Deploy {
    fn default() -> Self {
        Self { replicas: 1 }
    }
}

impl File {
    /// Reads the file as Compose does, without any variable set.
    pub fn read(text: &str) -> Self {
        let mut yaml: Yaml = yaml_serde::from_str(text).unwrap();
        // A pass for each level of anchors that merge others; a key that is left over would be an unknown one.
        for _ in 0..4 {
            yaml.apply_merge().unwrap();
        }
        interpolate(&mut yaml);
        yaml_serde::from_value(yaml).unwrap()
    }

    /// The services in the order in which they can start.
    pub fn in_order(&self) -> Vec<&str> {
        let mut order: Vec<&str> = Vec::new();
        while order.len() < self.services.len() {
            let (name, _) = self
                .services
                .iter()
                .find(|(name, service)| {
                    let mut before = service.depends_on.keys();
                    !order.contains(&name.as_str()) && before.all(|name| order.contains(&name.as_str()))
                })
                .unwrap_or_else(|| {
                    panic!("these wait for each other or for nothing that is there: all but {order:?}")
                });
            order.push(name);
        }
        order
    }
}

/// `${NAME:-value}` becomes its value; nothing else with a dollar sign is used.
fn interpolate(yaml: &mut Yaml) {
    match yaml {
        Yaml::String(text) => {
            while let Some((before, rest)) = text.split_once("${") {
                let (inside, after) = rest.split_once('}').unwrap();
                let (_, value) = inside.split_once(":-").unwrap();
                *text = format!("{before}{value}{after}");
            }
            assert!(!text.contains('$'), "{text}");
        }
        Yaml::Sequence(items) => items.iter_mut().for_each(interpolate),
        Yaml::Mapping(entries) => entries.values_mut().for_each(interpolate),
        _ => {}
    }
}
