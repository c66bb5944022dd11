//! What a machine must have, and what it has: findings, and what follows from them. The checks
//! themselves are in [`checks`]; everything here is pure.

pub mod checks;
mod user;

use serde::Serialize;

use crate::kind::SandboxKind;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub health: Health,
    /// What was seen, in one line.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Which kinds of sandbox cannot be without it.
    pub needed_by: Vec<SandboxKind>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Ok,
    /// Not there or not fit.
    Missing,
    /// Less than could be: what it protects or speeds up goes without.
    Weak,
}

impl Health {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Weak => "weak",
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
    /// Containers can run in microVMs.
    pub microvm: bool,
    /// Containers can run in namespaces.
    pub namespace: bool,
}

impl Diagnosis {
    /// What follows from the findings.
    #[must_use]
    pub fn new(findings: Vec<Finding>) -> Self {
        let possible = |kind| {
            findings
                .iter()
                .all(|found| found.health != Health::Missing || !found.needed_by.contains(&kind))
        };
        let (microvm, namespace) =
            (possible(SandboxKind::Microvm), possible(SandboxKind::Namespace));
        Self { findings, microvm, namespace }
    }

    /// Some container can run.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.microvm || self.namespace
    }

    /// For people.
    #[must_use]
    pub fn to_table(&self) -> String {
        let width = self.findings.iter().map(|found| found.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Finding { name, health, detail, remedy, .. } in &self.findings {
            text.push_str(&format!("{:<8} {name:<width$}  {detail}\n", health.name()));
            if let Some(remedy) = remedy {
                text.push_str(&format!("{:<8} {:<width$}  → {remedy}\n", "", ""));
            }
        }
        let say = |possible| if possible { "yes" } else { "no" };
        text.push_str(&format!(
            "\nisolation microvm: {}\nisolation namespace: {}\nisolation auto: {}\n",
            say(self.microvm),
            say(self.namespace),
            match (self.microvm, self.namespace) {
                (true, _) => "microvm",
                (false, true) => "namespace",
                (false, false) => "no",
            }
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &'static str, health: Health, needed_by: &[SandboxKind]) -> Finding {
        Finding {
            name,
            health,
            detail: "seen".into(),
            remedy: (health != Health::Ok).then(|| "do this".into()),
            needed_by: needed_by.to_vec(),
        }
    }

    #[test]
    fn a_kind_is_possible_when_nothing_that_it_needs_is_missing() {
        use SandboxKind::{Microvm, Namespace};
        let possible = |findings| {
            let diagnosis = Diagnosis::new(findings);
            (diagnosis.microvm, diagnosis.namespace)
        };
        assert_eq!(possible(vec![]), (true, true));
        assert_eq!(possible(vec![finding("kvm", Health::Missing, &[Microvm])]), (false, true));
        assert_eq!(
            possible(vec![finding("seccomp", Health::Missing, &[Microvm, Namespace])]),
            (false, false)
        );
        assert_eq!(possible(vec![finding("landlock", Health::Weak, &[Microvm])]), (true, true));
        assert_eq!(possible(vec![finding("apparmor", Health::Missing, &[])]), (true, true));
    }

    #[test]
    fn a_remedy_stands_below_what_it_is_for() {
        let diagnosis = Diagnosis::new(vec![
            finding("KVM", Health::Missing, &[SandboxKind::Microvm]),
            finding("cgroups", Health::Ok, &[]),
        ]);
        insta::assert_snapshot!(diagnosis.to_table(), @r"
        missing  KVM      seen
                          → do this
        ok       cgroups  seen

        isolation microvm: no
        isolation namespace: yes
        isolation auto: namespace
        ");
    }
}
