//! Which isolation a container gets: decided from what the operator, the caller and the tenant
//! asked for, and from what the machine can do. Pure: the machine is asked through a function, and
//! only when the answer matters.
//!
//! The rule behind every line: nobody gets less than was asked for without an error, and nobody
//! gets less than the machine can do without a warning.

use crate::config::{IsolationConfig, IsolationRequest};
use crate::kind::SandboxKind;
use crate::plan::Refusal;

/// The annotation by which a tenant asks.
pub const ANNOTATION: &str = "dev.cofferdam.isolation";
/// What is in effect, in `state`.
pub const ANNOTATION_EFFECTIVE: &str = "dev.cofferdam.isolation.effective";
/// And why.
pub const ANNOTATION_REASON: &str = "dev.cofferdam.isolation.reason";

/// Everything that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The operator's configuration.
    pub config: &'a IsolationConfig,
    /// `--isolation`.
    pub flag: Option<IsolationRequest>,
    /// The annotation's value.
    pub annotation: Option<&'a str>,
}

/// What a container runs in, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The sandbox.
    pub kind: SandboxKind,
    /// For `state`.
    pub reason: String,
    /// For the log, where the container gets something else than was asked for.
    pub warning: Option<String>,
}

/// Why there is no isolation that everyone accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsolationError {
    /// The annotation's value is unknown.
    #[error("The annotation {ANNOTATION} is {0:?}: auto, microvm or namespace are possible")]
    UnknownAnnotation(String),
    /// The tenant asked for less than holds without it, and the operator has not allowed that.
    #[error(
        "The annotation {ANNOTATION} asks for namespace, which is weaker than {held}: \
         isolation.annotation_may_weaken_to in the configuration does not list it"
    )]
    AnnotationWeakens {
        /// What holds.
        held: &'static str,
    },
    /// Someone asked for more than the operator's policy gives.
    #[error("{by} asks for isolation microvm, the operator's policy is {policy}")]
    PolicyIsWeaker {
        /// The flag or the annotation.
        by: &'static str,
        /// The policy.
        policy: &'static str,
    },
    /// A microVM was asked for and the machine has no KVM that could run it.
    #[error("No microVM on this machine: {reason}")]
    NoKvm {
        /// What the probe says.
        reason: String,
    },
    /// A microVM was asked for and the container needs what it cannot give.
    #[error("No microVM for this container: {}", list(.0))]
    NotInMicrovm(Vec<Refusal>),
}

/// Decides.
///
/// `refused` is what of the container's configuration a microVM cannot honour; `probe` says
/// why this machine's KVM cannot serve, if it cannot.
///
/// # Errors
/// When what was asked for cannot be had.
pub fn decide(
    asked: Asked<'_>,
    refused: Vec<Refusal>,
    probe: impl FnOnce() -> Result<(), String>,
) -> Result<Effective, IsolationError> {
    let Wish { request, by, warning } = combine(asked)?;
    let namespaces =
        |reason: String, warning| Effective { kind: SandboxKind::Namespace, reason, warning };
    let microvm = Effective {
        kind: SandboxKind::Microvm,
        reason: format!("{by} and KVM is fit"),
        warning: warning.clone(),
    };
    match (request, refused.is_empty()) {
        (IsolationRequest::Namespace, _) => Ok(namespaces(by, warning)),
        (IsolationRequest::Microvm, false) => Err(IsolationError::NotInMicrovm(refused)),
        (IsolationRequest::Microvm, true) => match probe() {
            Ok(()) => Ok(microvm),
            Err(reason) => Err(IsolationError::NoKvm { reason }),
        },
        (IsolationRequest::Auto, false) => {
            let reason = list(&refused);
            Ok(namespaces(reason.clone(), Some(fallback(&reason))))
        }
        (IsolationRequest::Auto, true) => match probe() {
            Ok(()) => Ok(microvm),
            Err(reason) => Ok(namespaces(reason.clone(), Some(fallback(&reason)))),
        },
    }
}

/// Every refused field, once for each reason the reason: an engine that gives a container all devices of
/// its host cuts what is longer than a few thousand bytes.
fn list(refused: &[Refusal]) -> String {
    let mut by_reason: Vec<(&str, Vec<&str>)> = Vec::new();
    for Refusal { field, reason } in refused {
        match by_reason.iter_mut().find(|(known, _)| known == reason) {
            Some((_, fields)) => fields.push(field),
            None => by_reason.push((reason, vec![field])),
        }
    }
    let texts =
        by_reason.iter().map(|(reason, fields)| format!("{} ({reason})", fields.join(", ")));
    texts.collect::<Vec<_>>().join("; ")
}

fn fallback(reason: &str) -> String {
    format!("The container runs in namespaces, not in a microVM: {reason}")
}

/// What holds once the operator, the caller and the tenant were heard.
struct Wish {
    request: IsolationRequest,
    by: String,
    warning: Option<String>,
}

fn combine(asked: Asked<'_>) -> Result<Wish, IsolationError> {
    let annotation = asked.annotation.map(parse_annotation).transpose()?;
    if let Some(policy) = asked.config.policy {
        return combine_with_policy(policy, asked.flag, annotation);
    }
    let base = asked.flag.unwrap_or(IsolationRequest::Auto);
    let by_flag = || match asked.flag {
        Some(flag) => format!("--isolation is {}", name(flag)),
        None => "isolation is auto by default".to_owned(),
    };
    let Some(wanted) = annotation else {
        return Ok(Wish { request: base, by: by_flag(), warning: None });
    };
    let stronger = strength(wanted) >= strength(base);
    let allowed = asked.flag.is_none() && asked.config.annotation_may_weaken_to.contains(&wanted);
    if stronger || allowed {
        let by = format!("the annotation {ANNOTATION} is {}", name(wanted));
        return Ok(Wish { request: wanted, by, warning: None });
    }
    refuse_weaker(wanted, base)?;
    Ok(Wish { request: base, by: by_flag(), warning: None })
}

/// A tenant's wish for less is an error: what it asked for is not what it would get. `auto` is
/// content with anything.
fn refuse_weaker(wanted: IsolationRequest, held: IsolationRequest) -> Result<(), IsolationError> {
    if wanted == IsolationRequest::Namespace && held != wanted {
        return Err(IsolationError::AnnotationWeakens { held: name(held) });
    }
    Ok(())
}

fn combine_with_policy(
    policy: IsolationRequest,
    flag: Option<IsolationRequest>,
    annotation: Option<IsolationRequest>,
) -> Result<Wish, IsolationError> {
    let mut request = policy;
    for (by, wanted) in [("--isolation", flag), ("The annotation", annotation)] {
        match (policy, wanted) {
            (IsolationRequest::Namespace, Some(IsolationRequest::Microvm)) => {
                return Err(IsolationError::PolicyIsWeaker { by, policy: name(policy) });
            }
            // A microVM or an error: the operator takes a microVM where there can be one.
            (IsolationRequest::Auto, Some(IsolationRequest::Microvm)) => {
                request = IsolationRequest::Microvm;
            }
            (_, Some(_)) => {}
            (_, None) => {}
        }
    }
    if let Some(wanted) = annotation {
        refuse_weaker(wanted, policy)?;
    }
    // The caller is the operator too: more than asked for is no error.
    let weaker = flag == Some(IsolationRequest::Namespace) && policy != IsolationRequest::Namespace;
    let warning = weaker.then(|| {
        format!("--isolation asks for namespace, the operator's policy is {}", name(policy))
    });
    let by = format!("the operator's policy is {}", name(policy));
    Ok(Wish { request, by, warning })
}

fn parse_annotation(text: &str) -> Result<IsolationRequest, IsolationError> {
    match text {
        "auto" => Ok(IsolationRequest::Auto),
        "microvm" => Ok(IsolationRequest::Microvm),
        "namespace" => Ok(IsolationRequest::Namespace),
        other => Err(IsolationError::UnknownAnnotation(other.chars().take(64).collect())),
    }
}

const fn name(request: IsolationRequest) -> &'static str {
    match request {
        IsolationRequest::Auto => "auto",
        IsolationRequest::Microvm => "microvm",
        IsolationRequest::Namespace => "namespace",
    }
}

const fn strength(request: IsolationRequest) -> u8 {
    match request {
        IsolationRequest::Namespace => 0,
        IsolationRequest::Auto => 1,
        IsolationRequest::Microvm => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn refused() -> Vec<Refusal> {
        vec![Refusal { field: "linux.intelRdt".into(), reason: "not there" }]
    }

    fn short(outcome: &Result<Effective, IsolationError>) -> String {
        match outcome {
            Ok(effective) => {
                let mark = if effective.warning.is_some() { " (warns)" } else { "" };
                format!("{}{mark}", effective.kind.name())
            }
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn who_asks_for_what_on_a_fit_machine() {
        use IsolationRequest::{Auto, Microvm, Namespace};
        let choices = [None, Some(Auto), Some(Microvm), Some(Namespace)];
        let label = |choice: Option<IsolationRequest>| choice.map_or("-", name);
        let mut table = String::from("policy    flag      annotation\n");
        for policy in choices {
            for flag in choices {
                for annotation in choices {
                    let config = IsolationConfig { policy, ..IsolationConfig::default() };
                    let asked = Asked { config: &config, flag, annotation: annotation.map(name) };
                    let outcome = short(&decide(asked, vec![], || Ok(())));
                    let (policy, flag) = (label(policy), label(flag));
                    let annotation = label(annotation);
                    writeln!(table, "{policy:<10}{flag:<10}{annotation:<11}{outcome}").unwrap();
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn what_the_machine_and_the_container_allow() {
        let cases = [
            (IsolationRequest::Auto, vec![], true, "microvm"),
            (IsolationRequest::Auto, vec![], false, "namespace (warns)"),
            (IsolationRequest::Auto, refused(), true, "namespace (warns)"),
            (IsolationRequest::Microvm, vec![], false, "error: No microVM on this machine: slow"),
            (
                IsolationRequest::Microvm,
                refused(),
                true,
                "error: No microVM for this container: linux.intelRdt (not there)",
            ),
            (IsolationRequest::Namespace, refused(), false, "namespace"),
        ];
        let config = IsolationConfig::default();
        for (request, refused, fit, expected) in cases {
            let asked = Asked { config: &config, flag: Some(request), annotation: None };
            let probe = || if fit { Ok(()) } else { Err("slow".to_owned()) };
            assert_eq!(short(&decide(asked, refused, probe)), expected, "{request:?}");
        }
    }

    #[test]
    fn a_reason_is_given_once() {
        let refusal = |field: &str, reason| Refusal { field: field.to_owned(), reason };
        let refused = [refusal("a[0]", "no"), refusal("b", "never"), refusal("a[1]", "no")];
        assert_eq!(list(&refused), "a[0], a[1] (no); b (never)");
    }

    #[test]
    fn the_machine_is_not_asked_in_vain() {
        let config = IsolationConfig::default();
        let probe = || -> Result<(), String> { panic!("probed") };
        let asked = |flag| Asked { config: &config, flag: Some(flag), annotation: None };
        decide(asked(IsolationRequest::Namespace), vec![], probe).unwrap();
        decide(asked(IsolationRequest::Auto), refused(), probe).unwrap();
    }

    #[test]
    fn an_annotation_may_weaken_to_what_the_operator_lists_and_no_flag_forbids() {
        let config = IsolationConfig {
            annotation_may_weaken_to: vec![IsolationRequest::Namespace],
            ..IsolationConfig::default()
        };
        let kind = |flag| {
            let asked = Asked { config: &config, flag, annotation: Some("namespace") };
            decide(asked, vec![], || Ok(())).map(|effective| effective.kind)
        };
        assert_eq!(kind(None), Ok(SandboxKind::Namespace));
        let held = "microvm";
        let refused = Err(IsolationError::AnnotationWeakens { held });
        assert_eq!(kind(Some(IsolationRequest::Microvm)), refused);
    }

    #[test]
    fn an_unknown_annotation_is_an_error() {
        let config = IsolationConfig::default();
        let asked = Asked { config: &config, flag: None, annotation: Some("strong") };
        assert!(matches!(
            decide(asked, vec![], || Ok(())),
            Err(IsolationError::UnknownAnnotation(_))
        ));
    }
}
