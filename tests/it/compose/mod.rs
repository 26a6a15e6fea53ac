//! docker-compose.yml, without an engine: it keeps to the schema, its services run together as it says, and the tour of
//! README.md can be taken in them.

mod file;
mod running;
mod tour;

use std::{collections::BTreeMap, fs};

use file::{Condition, File};
use running::Running;

use crate::{python, system::Service, topics_script::repository};

/// Has the schema of the Compose specification inside.
const CHECKER: &str = "check-jsonschema==0.39.0";

fn compose_file() -> File {
    File::read(&fs::read_to_string(repository().join("docker-compose.yml")).unwrap())
}

#[tokio::test]
async fn the_tour_can_be_taken_in_docker_compose_yml() {
    let mut running = Running::up(compose_file()).await;
    tour::take(&tour::places(&tour::section("With Docker"), |port| {
        running.published(port)
    }))
    .await;
    running.scale_up("dispatcher").await;
    // Topics, groups, and the broker as the file sets it up.
    let checked = running.ask(&["topics", "check"]);
    assert!(checked.lines().all(|line| line.starts_with("good ")), "{checked}");
    running.down().await;
}

#[tokio::test]
async fn the_tour_can_be_taken_in_one_process() {
    let mut up = Service::new("up", vec!["up".to_owned()], Vec::new());
    up.launch();
    up.ready().await;
    let address = up.url().trim_start_matches("http://").to_owned();
    tour::take(&tour::places(&tour::section("Tour"), |_| address.clone())).await;
    up.stop().await;
}

#[test]
fn every_service_has_its_port_and_starts_after_what_it_needs() {
    let file = compose_file();
    let mut ports = BTreeMap::new();
    for (name, service) in &file.services {
        for port in &service.ports {
            // Nobody is asked who they are: this machine only.
            let port = port
                .strip_prefix("127.0.0.1:")
                .unwrap_or_else(|| panic!("{name}: {port}"));
            let (published, own) = port.split_once(':').unwrap();
            assert_eq!(published, own, "{name}");
            if let Some(listen) = service.environment.get("POSTHASTE_SERVICE__LISTEN") {
                assert_eq!(listen, &format!("0.0.0.0:{own}"), "{name}");
            }
            ports.insert(published.parse::<u16>().unwrap(), name.as_str());
        }
    }
    let wanted = [
        (3000, "ingestion"),
        (3001, "critical-1"),
        (3002, "critical-2"),
        (3003, "default"),
        (3004, "retry-lane"),
        (3005, "replay"),
        (3006, "retry"),
        (3007, "status"),
        (3010, "sandbox"),
        (8081, "mongo-express"),
    ];
    assert_eq!(ports, BTreeMap::from(wanted));
    assert_eq!(file.services["dispatcher"].deploy.replicas, 0);

    for (name, service) in &file.services {
        assert!(
            ["no", "unless-stopped"].contains(&service.restart.as_str()),
            "{name}"
        );
        let is_job = service.restart == "no";
        let waited_for = |wanted: Condition| {
            let mut all = file.services.values();
            all.any(|other| {
                other
                    .depends_on
                    .get(name)
                    .is_some_and(|needed| needed.condition == wanted)
            })
        };
        assert_eq!(waited_for(Condition::Completed), is_job, "{name}");
        let checked = service.healthcheck.as_ref().is_some_and(|check| !check.disable);
        assert!(
            checked || is_job || name == "mongo-express",
            "{name} has no health check"
        );
        assert!(
            !service.mem_limit.is_empty() && service.logging["options"]["max-size"].is_string(),
            "{name}"
        );
        // An image of another is named to the last digit; ours is built, and never fetched by its name.
        match service.image.as_str() {
            "posthaste" => assert_eq!(
                (service.build.as_deref(), service.pull_policy.as_deref()),
                (Some("."), Some("build")),
                "{name}"
            ),
            image => assert!(
                image
                    .split_once(':')
                    .is_some_and(|(_, tag)| tag.matches('.').count() >= 2),
                "{image} is not pinned"
            ),
        }
        for file in &service.env_file {
            assert!(!file.required && file.path == "providers.env", "{name}");
        }
        for volume in service.volumes.iter().filter(|volume| !volume.starts_with('.')) {
            assert!(
                file.volumes.contains_key(volume.split(':').next().unwrap()),
                "{volume}"
            );
        }
    }

    // The job and the program are told the same.
    let (job, ours) = (
        &file.services["topics"].environment,
        &file.services["groups"].environment,
    );
    for (theirs, key) in [
        ("BOOTSTRAP", "BROKER__KAFKA__BOOTSTRAP_SERVERS"),
        ("PREFIX", "BROKER__PREFIX"),
        ("PARTITIONS", "BROKER__PARTITIONS"),
        ("REPLICATION", "BROKER__KAFKA__REPLICATION"),
    ] {
        assert_eq!(job[theirs], ours[&format!("POSTHASTE_{key}")], "{theirs}");
    }
    let express = &file.services["mongo-express"].environment;
    assert_eq!(express["ME_CONFIG_BASICAUTH_USERNAME"], "admin");
    assert_eq!(express["ME_CONFIG_BASICAUTH_PASSWORD"], "admin");
}

#[test]
fn the_image_is_built_as_the_tests_run_it() {
    let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
    let (image, workspace) = (read("Dockerfile"), read("Cargo.toml"));
    let version = workspace.split("rust-version = \"").nth(1).unwrap();
    let version = version.split('"').next().unwrap();
    for line in [
        &format!("FROM rust:{version}."),
        // A command of the compose file follows it.
        "ENTRYPOINT [\"posthaste\"]\n",
        "USER 10001:10001\n",
        "CMD [\"posthaste\", \"health\"]\n",
        "POSTHASTE_SERVICE__DATA_DIR=/data\n",
    ] {
        assert!(image.contains(line), "the Dockerfile has no {line}");
    }
}

#[test]
fn docker_compose_yml_keeps_to_the_schema_of_compose() {
    let checked = python::module(CHECKER, "check_jsonschema")
        .args(["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}
