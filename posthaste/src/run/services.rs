//! Puts the services of this process together.

use std::{path::PathBuf, sync::Arc};

use axum::Router;
use posthaste_broker::Broker;
use posthaste_replay::Replay;
use posthaste_service::config::Origin;
use tokio::sync::watch;

use super::{Mode, Process, Role, backends, tasks::Tasks};
use crate::failure::Failure;

/// Starts the services: their loops as tasks, their paths as the routes that are given back.
pub async fn start(
    process: &Process,
    roles: &[Role],
    tasks: &mut Tasks,
) -> Result<(Router, Arc<dyn Broker>), Failure> {
    // What the user can get wrong comes first, before anything waits for anything.
    let names =
        posthaste_provider::names(&process.settings.provider).map_err(|error| process.refuse(error))?;
    let mut retry = None;
    for role in roles {
        if *role == Role::Retry {
            retry = Some(process.settings.retry.rules().map_err(Failure::usage)?);
        }
    }
    let broker = backends::broker(process).await?;
    let mut routes = Router::new();
    for role in roles {
        match role {
            Role::Ingestion => {
                if process.mode == Mode::Alone {
                    backends::topics(process, &broker).await?;
                }
                routes = routes.merge(posthaste_ingestion::router(
                    Arc::clone(&broker),
                    names.clone(),
                    process.settings.ingestion.clone(),
                    Arc::clone(&process.instance),
                    &process.health,
                ));
            }
            Role::Retry => {
                if let Some(rules) = retry.take() {
                    process.start_retry(&broker, rules, tasks);
                }
            }
            Role::Replay => routes = routes.merge(process.start_replay(&broker, tasks)),
            Role::Dispatcher(_) => {}
        }
    }
    Ok((routes, broker))
}

impl Process {
    fn start_retry(&self, broker: &Arc<dyn Broker>, rules: posthaste_rules::Rules, tasks: &mut Tasks) {
        let (broker, settings) = (Arc::clone(broker), self.settings.retry.clone());
        let (instance, health, stop) = (Arc::clone(&self.instance), self.health.clone(), tasks.stop());
        tasks.spawn("retry", async move {
            // The sender lives as long as the service: a later version of the file may come in through it.
            let (_sender, rules) = watch::channel(Arc::new(rules));
            posthaste_retry::run(&settings, broker, rules, instance, &health, stop)
                .await
                .map_err(|error| error.to_string())
        });
    }

    fn start_replay(&self, broker: &Arc<dyn Broker>, tasks: &mut Tasks) -> Router {
        let replay = Replay::new(
            Arc::clone(broker),
            self.settings.replay.clone(),
            Arc::clone(&self.instance),
            &self.health,
            self.own_folder(),
        );
        let (router, stop) = (replay.router(), tasks.stop());
        tasks.spawn("replay", async move {
            replay.run(stop).await.map_err(|error| error.to_string())
        });
        router
    }

    /// The data folder, if it is this process's own: alone, only one that somebody named for it. Several processes may be
    /// started in the same place.
    fn own_folder(&self) -> Option<PathBuf> {
        let named = self.configuration.value("service.data_dir");
        let is_default = named.is_none_or(|(_, origin)| *origin == Origin::Default);
        let is_own = self.mode == Mode::Up || !is_default;
        is_own.then(|| self.settings.service.data_dir.clone())
    }

    /// The error of a provider file or a setting, with the place where it was set.
    pub(super) fn refuse(&self, error: posthaste_provider::LoadError) -> Failure {
        match error {
            posthaste_provider::LoadError::Setting(error) => self.configuration.refuse(&error).into(),
            error => Failure::usage(error),
        }
    }
}
