//! Service accounts and their tokens.

use anyhow::{Result, ensure};

use crate::case::Case;
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "001-1556 001-1766: a token projected for an audience",
        run: projected_token,
        alone: false,
    },
    Test { name: "001-1524: no token where none is to be mounted", run: no_token, alone: false },
    Test { name: "002-1480: an image's name that cannot be", run: impossible_image, alone: false },
];

fn projected_token(case: Case<'_>) -> Result<()> {
    case.apply(&["001-1556", "001-1766"])?;
    case.ready(&["nginx"])?;
    // The claims are the token's middle part, in base64 without its padding.
    let script = "cut -d. -f2 /var/run/secrets/tokens/vault-token | tr '_-' '/+' | sed 's/$/==/' | base64 -d 2>/dev/null; true";
    let claims = case.exec("nginx", &["sh", "-c", script])?;
    let end = claims.rfind('}').map_or(0, |it| it + 1);
    let claims: serde_json::Value = serde_json::from_str(claims.get(..end).unwrap_or_default())?;
    ensure!(claims["aud"] == serde_json::json!(["vault"]), "{claims}");
    let subject = format!("system:serviceaccount:{}:build-robot", case.namespace);
    ensure!(claims["sub"] == subject.as_str(), "{claims}");
    ensure!(claims["kubernetes.io"]["pod"]["name"] == "nginx", "{claims}");
    let lasts =
        claims["exp"].as_i64().unwrap_or_default() - claims["iat"].as_i64().unwrap_or_default();
    ensure!(lasts == 7200, "{claims}");
    case.remove(&["nginx"])
}

fn no_token(case: Case<'_>) -> Result<()> {
    case.apply(&["001-1524"])?;
    let run = [
        "run",
        "plain",
        "--image=busybox",
        "--restart=Never",
        "--overrides={\"spec\":{\"serviceAccountName\":\"build-robot\"}}",
        "--",
        "sleep",
        "3600",
    ];
    case.kubectl(&run)?;
    case.ready(&["plain"])?;
    let refused = case.fails(&["exec", "plain", "--", "ls", "/var/run/secrets/kubernetes.io"])?;
    ensure!(refused.contains("No such file or directory"), "{refused}");
    case.remove(&["plain"])
}

fn impossible_image(case: Case<'_>) -> Result<()> {
    case.apply(&["002-1480"])?;
    case.until("pods", "private-reg", "its image's name is refused", |pod| {
        crate::case::text(crate::case::container(pod, "/state/waiting"), "/reason")
            == "InvalidImageName"
    })?;
    case.event("private-reg", "InspectFailed", "Failed to apply default image tag")?;
    case.remove(&["private-reg"])
}
