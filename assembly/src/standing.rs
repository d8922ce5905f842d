//! What rules say of a path that stands: whether something for another service than the one it was made for may go over it.

use crate::choice::Reason;
use crate::facts::Facts;
use crate::message::Refusal;
use crate::name::Name;
use crate::rules::{Means, Policy, Rules};
use crate::stack::{Method, Reach, Security, Stack};

/// A path as it stands between two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What people call it where it is no stack that rules can name.
    pub name: &'static str,
    /// Its stack; `None`: rules have no name for it.
    pub stack: Option<Stack>,
    /// How safe it is between these two.
    pub security: Security,
}

/// Why it may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The class of the reason.
    pub refusal: Refusal,
    /// The rule, the path and the reason, for people.
    pub why: String,
}

/// Whether the rules of one side let what is for a service go over a path, at least so safe.
///
/// A service whose name is none that rules can have is one of those for which no rule says anything of its own. A stack with more
/// filters than the one that a rule names is more than was asked for, and does.
///
/// # Errors
/// Why not.
pub fn admit(
    rules: &Rules,
    (from, to): (&Facts, &Facts),
    service: &str,
    standing: &Standing,
    least: Security,
) -> Result<(), Denied> {
    let service = service.parse::<Name>().ok();
    let policy = rules.policy_of(from, to, service.as_ref());
    let what = standing.stack.as_ref().map_or_else(|| standing.name.to_owned(), Stack::to_string);
    let denied =
        |refusal, why: &str| Err(Denied { refusal, why: format!("{}: {what}: {why}", policy.origin()) });
    let Some(stack) = &standing.stack else { return denied(Refusal::Policy, "rules have no name for it") };
    if let Err(reason) = is_meant(&policy, (from, to), stack) {
        return denied(Refusal::Policy, &reason.to_string());
    }
    // Only what is of one host can be what it says that it is.
    if stack.method() == Method::Shm && from.reach(to) == Reach::Apart {
        return denied(Refusal::Policy, &Reason::OtherHost.to_string());
    }
    let (is, least) = (standing.security, least.max(policy.min_security));
    match is >= least {
        true => Ok(()),
        false => denied(Refusal::Security, &Reason::TooWeak { is, least }.to_string()),
    }
}

/// Whether a policy leads to a stack, or to one with fewer filters.
pub(crate) fn is_meant(policy: &Policy, (from, to): (&Facts, &Facts), stack: &Stack) -> Result<(), Reason> {
    match &policy.means {
        Means::Scheme(scheme) if !scheme.allows(stack.method(), from, to) => Err(Reason::Scheme(*scheme)),
        Means::Stacks(stacks) if !stacks.iter().any(|named| is_more(stack, named)) => Err(Reason::NotNamed),
        _ => Ok(()),
    }
}

/// Whether a stack is the one that is named, or that one under more filters.
fn is_more(stack: &Stack, named: &Stack) -> bool {
    let has = |filter| stack.filters().contains(filter);
    stack.method() == named.method() && named.filters().iter().all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of the sixth example of the page.
    const RULES: &str = "min_security = 'plain'\n[[rule]]\nservice = 'secrets'\nmin_security = 'encrypted'\n\
                         [[rule]]\nuse = ['tcp', 'tls/tcp']\n";

    fn standing(stack: &str, security: Security) -> Standing {
        Standing { name: "rail", stack: stack.parse().ok(), security }
    }

    fn judge(rules: &str, service: &str, standing: &Standing, least: Security) -> Result<(), String> {
        let [a, b] = ["a@x/h", "b@y/h"].map(|text| Facts::describe(text).unwrap());
        admit(&rules.parse().unwrap(), (&a, &b), service, standing, least).map_err(|denied| denied.why)
    }

    #[test]
    fn a_path_of_one_service_is_not_that_of_another() {
        let (plain, sealed) =
            (standing("tcp", Security::Plain), standing("tls/tcp(streams=2)", Security::Encrypted));
        assert_eq!(judge(RULES, "files", &plain, Security::Plain), Ok(()));
        assert_eq!(judge(RULES, "secrets", &sealed, Security::Plain), Ok(()));
        assert_eq!(judge(RULES, "files", &sealed, Security::Plain), Ok(()));
        let why = judge(RULES, "secrets", &plain, Security::Plain).unwrap_err();
        assert_eq!(why, "the rule of line 2: tcp: it is plain between these two, encrypted is asked for");
        let why = judge(RULES, "files", &plain, Security::Encrypted).unwrap_err();
        assert_eq!(why, "the rule of line 5: tcp: it is plain between these two, encrypted is asked for");
        let shm = standing("shm", Security::Encrypted);
        let why = judge(RULES, "files", &shm, Security::Plain).unwrap_err();
        assert_eq!(why, "the rule of line 5: shm: the rule does not name it");
    }

    #[test]
    fn names_that_rules_cannot_have_are_those_of_no_service() {
        let plain = standing("tcp", Security::Plain);
        let long = "s".repeat(128);
        for service in ["", "secrets ", "Secrets", "-secrets", "s/e", "\u{e4}", "'secrets'", &long] {
            assert_eq!(judge(RULES, service, &plain, Security::Plain), Ok(()), "{service}");
            let all = "min_security = 'encrypted'\n[[rule]]\nservice = 'files'\nmin_security = 'plain'\n";
            let why = judge(all, service, &plain, Security::Plain).unwrap_err();
            assert!(why.starts_with("no rule matches: tcp: it is plain"), "{service}: {why}");
        }
    }

    #[test]
    fn more_filters_do_and_other_ways_do_not() {
        let tcp = "[[rule]]\nmin_security = 'plain'\nuse = ['tcp']\n";
        assert_eq!(judge(tcp, "s", &standing("tls/tcp", Security::Encrypted), Security::Plain), Ok(()));
        let tls = "[[rule]]\nmin_security = 'plain'\nuse = ['tls/tcp']\n";
        assert!(judge(tls, "s", &standing("tcp", Security::Plain), Security::Plain).is_err());
        assert!(judge(tls, "s", &standing("tls/relay", Security::Encrypted), Security::Plain).is_err());
        let unnamed = Standing { name: "rail verbs", stack: None, security: Security::Plain };
        let why = judge("min_security = 'plain'", "s", &unnamed, Security::Plain).unwrap_err();
        assert_eq!(why, "no rule matches: rail verbs: rules have no name for it");
        let shm = standing("shm", Security::Authenticated);
        assert!(judge("", "s", &shm, Security::Plain).unwrap_err().contains("authenticated"));
        assert!(judge("scheme = 'relay-only'", "s", &shm, Security::Plain).unwrap_err().contains("scheme"));
    }

    #[test]
    fn memory_in_common_is_not_that_of_a_node_of_another_host() {
        let (rules, shm) = ("min_security = 'plain'".parse().unwrap(), standing("shm", Security::Encrypted));
        for (host, is_allowed) in [("h", true), ("i", false), ("-", false)] {
            let [a, b] = ["a@x/h", &format!("b@x/{host}")].map(|text| Facts::describe(text).unwrap());
            for pair in [(&a, &b), (&b, &a)] {
                let judged = admit(&rules, pair, "s", &shm, Security::Plain);
                assert_eq!(judged.is_ok(), is_allowed, "{host}: {judged:?}");
            }
        }
    }
}
