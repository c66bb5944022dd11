//! Many pods at once: all are started, a container is run in each, all are ended. Each step begins for
//! everyone together, and the next when it is over for all.
//!
//! Each pod has a network namespace on one bridge, as CNI makes them, and its container asks the bridge
//! for an answer, so that a pod that only seems to run is found out.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::containerd::{Client, Containerd};
use super::handler::Handler;
use super::leftovers::Leftovers;
use super::pod::Pod;
use super::report::{Crowd, Step};
use crate::bench::site::{HOST, Site};

/// What ends asynchronously (shims, a killed monitor's memory and mounts) has this long to go.
const GRACE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// Starts, runs and ends so many pods.
pub(super) fn gather(containerd: &Containerd, handler: &Handler, pods: u8) -> Result<Crowd> {
    let _site = Site::build(pods)?;
    let networks: Vec<String> = (1..=pods).map(Site::name).collect();
    let pod = |plot| {
        let id = format!("crowd-{plot}");
        Pod::new(containerd, handler, &id, Some(Site::path(plot)))
    };
    // What is made once and for all is there before anything is counted.
    let first = Pod::new(containerd, handler, "first", None);
    first.start()?;
    first.stop()?;
    thread::sleep(PAUSE);
    let before = Leftovers::now(containerd, &networks);

    // It needs the pod's network, and has patience for everybody else's.
    let (host, patience) = (HOST.to_string(), GRACE.as_secs().to_string());
    let asks = ["ping", "-c", "1", "-W", &patience, &host];
    let pods: Vec<Pod<'_>> = (1..=pods).map(pod).collect();
    let steps = vec![
        step("start", &pods, |pod| containerd.begin(&pod.start_words())),
        step("run", &pods, |pod| containerd.begin(&pod.member_words(&asks)?)),
        step("end", &pods, |pod| containerd.begin(&pod.stop_words()[0])),
        step("forget", &pods, |pod| containerd.begin(&pod.stop_words()[1])),
    ];
    let left = left_after(&before, || Leftovers::now(containerd, &networks));
    Ok(Crowd {
        name: handler.name().to_owned(),
        version: handler.version(),
        pods: pods.len(),
        steps,
        left,
    })
}

/// Begins for each, then waits for all.
fn step(name: &str, pods: &[Pod<'_>], begin: impl Fn(&Pod<'_>) -> Result<Client>) -> Step {
    eprintln!("{name}: {} pods", pods.len());
    let started = Instant::now();
    let begun: Vec<_> = pods.iter().map(|pod| (pod.id(), begin(pod))).collect();
    let failed = begun.into_iter().filter_map(|(id, client)| {
        let error = client.and_then(Client::end).err()?;
        Some(format!("{id}: {error:#}"))
    });
    let failed = failed.collect();
    let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Step { name: name.to_owned(), took_us, failed }
}

/// What is left when there was time for it to go.
fn left_after(before: &Leftovers, now: impl Fn() -> Leftovers) -> Vec<String> {
    let end = Instant::now() + GRACE;
    loop {
        let left = now().since(before);
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        thread::sleep(PAUSE);
    }
}
