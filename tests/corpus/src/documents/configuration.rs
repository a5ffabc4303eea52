//! ConfigMaps and Secrets in pods: variables, files, changes that arrive; fields of the pod itself.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::case::{Case, text};
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "001-3583 001-3693: a variable from a ConfigMap",
        run: one_variable,
        alone: false,
    },
    Test { name: "001-3724 001-3748: variables from two ConfigMaps", run: two_maps, alone: false },
    Test { name: "001-3781 001-3798: every key as a variable", run: every_key, alone: false },
    Test { name: "001-3862 001-3824: variables in a command", run: in_a_command, alone: false },
    Test { name: "001-3880 001-3917: a ConfigMap as files", run: files, alone: false },
    Test { name: "a ConfigMap's change arrives in its files", run: live, alone: false },
    Test {
        name: "001-4002 001-4025: what is optional may be missing",
        run: optional,
        alone: false,
    },
    Test { name: "001-3975: a ConfigMap to the byte", run: to_the_byte, alone: false },
    Test { name: "002-2272 002-2284: Secrets, encoded and plain", run: secrets, alone: false },
    Test {
        name: "002-2332 002-2355 002-2386: commands and variables",
        run: commands,
        alone: false,
    },
    Test { name: "002-2430: a pod's own fields", run: own_fields, alone: false },
    Test {
        name: "001-3389 to 001-3658: ConfigMaps of files, env files and kustomize",
        run: made_by_kubectl,
        alone: false,
    },
    Test {
        name: "002-0278 002-0705 002-0885 002-0955 002-0975 002-1713 002-2569: objects that are kept",
        run: kept,
        alone: false,
    },
    Test {
        name: "002-0371 002-0397 002-0733: kinds that are not there",
        run: unknown_kinds,
        alone: false,
    },
];

const POD: &str = "dapi-test-pod";

/// A document that names the namespace `default`, in the test's.
fn here(case: &Case<'_>, id: &str) -> Result<()> {
    let text =
        case.document(id)?.replace("namespace: default", &format!("namespace: {}", case.namespace));
    case.apply_text(&text).map(drop)
}

fn lines_include(log: &str, expected: &[&str]) -> Result<()> {
    for line in expected {
        ensure!(log.lines().any(|it| it == *line), "no line {line:?} in:\n{log}");
    }
    Ok(())
}

fn one_variable(case: Case<'_>) -> Result<()> {
    case.kubectl(&["create", "configmap", "special-config", "--from-literal=special.how=very"])?;
    case.apply(&["001-3693"])?;
    lines_include(&case.log_of_finished(POD)?, &["SPECIAL_LEVEL_KEY=very"])
}

fn two_maps(case: Case<'_>) -> Result<()> {
    here(&case, "001-3724")?;
    case.apply(&["001-3748"])?;
    lines_include(&case.log_of_finished(POD)?, &["SPECIAL_LEVEL_KEY=very", "LOG_LEVEL=INFO"])
}

fn every_key(case: Case<'_>) -> Result<()> {
    here(&case, "001-3781")?;
    case.apply(&["001-3798"])?;
    lines_include(&case.log_of_finished(POD)?, &["SPECIAL_LEVEL=very", "SPECIAL_TYPE=charm"])
}

fn in_a_command(case: Case<'_>) -> Result<()> {
    here(&case, "001-3862")?;
    case.apply(&["001-3824"])?;
    let log = case.log_of_finished(POD)?;
    ensure!(log == "very charm\n", "{log:?}");
    Ok(())
}

fn files(case: Case<'_>) -> Result<()> {
    here(&case, "001-3862")?;
    case.apply(&["001-3880"])?;
    let log = case.log_of_finished(POD)?;
    ensure!(log == "SPECIAL_LEVEL\nSPECIAL_TYPE\n", "{log:?}");
    case.remove(&[POD])?;
    case.apply(&["001-3917"])?;
    let log = case.log_of_finished(POD)?;
    ensure!(log == "very", "{log:?}");
    Ok(())
}

fn live(case: Case<'_>) -> Result<()> {
    here(&case, "001-3862")?;
    // Prints the file whenever it is another.
    let script = "last=; while true; do now=$(cat /etc/config/SPECIAL_LEVEL); \
                  [ \"$now\" = \"$last\" ] || echo $now; last=$now; sleep 0.2; done";
    let text =
        case.document("001-3880")?.replace("\"ls /etc/config/\"", &json!(script).to_string());
    case.apply_text(&text)?;
    case.ready(&[POD])?;
    let patch = json!({"data": {"SPECIAL_LEVEL": "extremely"}}).to_string();
    case.kubectl(&["patch", "configmap", "special-config", "--patch", &patch])?;
    let waiting = "until [ \"$(cat /etc/config/SPECIAL_LEVEL)\" = extremely ]; do sleep 0.2; done";
    case.exec(POD, &["timeout", "60", "sh", "-c", waiting])?;
    case.remove(&[POD])
}

fn optional(case: Case<'_>) -> Result<()> {
    case.apply(&["001-4002"])?;
    let log = case.log_of_finished(POD)?;
    ensure!(!log.contains("SPECIAL_LEVEL_KEY"), "{log}");
    case.remove(&[POD])?;
    case.apply(&["001-4025"])?;
    let log = case.log_of_finished(POD)?;
    ensure!(log.is_empty(), "{log:?}");
    Ok(())
}

fn to_the_byte(case: Case<'_>) -> Result<()> {
    here(&case, "001-3975")?;
    let map = case.get("configmap", "example-config")?;
    ensure!(
        map["data"]["example.property.file"]
            == json!("property.1=value-1\nproperty.2=value-2\nproperty.3=value-3   "),
        "{}",
        map["data"]
    );
    ensure!(map["data"]["example.property.1"] == json!("hello"), "{}", map["data"]);
    // What a client says of the time of creation does not count.
    ensure!(text(&map, "/metadata/creationTimestamp") > "2020", "{}", map["metadata"]);
    Ok(())
}

fn secrets(case: Case<'_>) -> Result<()> {
    case.apply(&["002-2272"])?;
    let get =
        ["get", "secret", "my-secret", "--output=go-template={{.data.password | base64decode}}"];
    let password = case.kubectl(&get)?;
    ensure!(password == "ST!B*$dsd=", "{password:?}");
    case.apply(&["002-2284"])?;
    let password = case.kubectl(&get)?;
    ensure!(password == "S!B*$dsb=", "{password:?}");
    let secret = case.get("secret", "my-secret")?;
    ensure!(secret.get("stringData").is_none(), "{secret}");
    Ok(())
}

fn commands(case: Case<'_>) -> Result<()> {
    case.apply(&["002-2332", "002-2355", "002-2386"])?;
    let log = case.log_of_finished("command-demo")?;
    let lines: Vec<&str> = log.lines().collect();
    ensure!(
        matches!(lines[..], ["command-demo", port] if port.starts_with("tcp://") && port.ends_with(":443")),
        "{log:?}"
    );
    // It restarts for ever; what it says is what counts.
    case.until("pods", "dependent-envars-pod", "it ran", |pod| {
        let status = crate::case::container(pod, "");
        status["state"]["terminated"]["reason"] == "Completed"
            || status["lastState"]["terminated"]["reason"] == "Completed"
    })?;
    let log = case.kubectl(&["logs", "dependent-envars-pod"])?;
    ensure!(log == "this is var_a\n", "{log:?}");
    case.ready(&["example-pod"])?;
    let value = case.exec("example-pod", &["printenv", "DEMO_VAR"])?;
    ensure!(value == "foobar\n", "{value:?}");
    case.remove(&["dependent-envars-pod", "example-pod"])
}

fn own_fields(case: Case<'_>) -> Result<()> {
    case.apply(&["002-2430"])?;
    case.until("pods", "downward-api-demo", "it ran", |pod| {
        let status = crate::case::container(pod, "");
        status["state"]["terminated"]["reason"] == "Completed"
            || status["lastState"]["terminated"]["reason"] == "Completed"
    })?;
    let log = case.kubectl(&["logs", "downward-api-demo"])?;
    let pod = case.get("pod", "downward-api-demo")?;
    let expected = [
        "POD_NAME=downward-api-demo".to_owned(),
        format!("POD_NAMESPACE={}", case.namespace),
        format!("POD_IP={}", text(&pod, "/status/podIP")),
    ];
    lines_include(&log, &expected.each_ref().map(String::as_str))?;
    ensure!(!text(&pod, "/status/podIP").is_empty(), "{}", pod["status"]);
    case.remove(&["downward-api-demo"])
}

/// The ConfigMaps that the text makes with kubectl, against the objects it shows.
fn made_by_kubectl(case: Case<'_>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    let game = "enemies=aliens\nlives=3\nenemies.cheat=true\nenemies.cheat.level=noGoodRotten\n\
                secret.code.passphrase=UUDDLRLRBABAS\nsecret.code.allowed=true\nsecret.code.lives=30";
    std::fs::create_dir_all(at("configure-pod-container/configmap"))?;
    let file = at("configure-pod-container/configmap/game.properties");
    std::fs::write(&file, game)?;
    let keyed = format!("--from-file=game-special-key={}", file.display());
    case.kubectl(&["create", "configmap", "game-config-3", &keyed])?;
    let map = case.get("configmap", "game-config-3")?;
    ensure!(map["data"]["game-special-key"] == json!(game), "{map}");
    std::fs::write(at("game-env"), "enemies=aliens\nlives=3\nallowed=\"true\"\n# a comment\n\n")?;
    let env = format!("--from-env-file={}", at("game-env").display());
    case.kubectl(&["create", "configmap", "game-config-env-file", &env])?;
    let map = case.get("configmap", "game-config-env-file")?;
    ensure!(
        map["data"] == json!({"allowed": "\"true\"", "enemies": "aliens", "lives": "3"}),
        "{map}"
    );
    for (id, name) in [
        ("001-3593", "game-config-4-"),
        ("001-3639", "game-config-5-"),
        ("001-3658", "special-config-2-"),
    ] {
        std::fs::write(at("kustomization.yaml"), case.document(id)?)?;
        let made = case.kubectl(&["apply", "--kustomize", &directory.path().to_string_lossy()])?;
        ensure!(made.starts_with(&format!("configmap/{name}")), "{id}: {made}");
    }
    let labelled =
        case.kubectl(&["get", "configmaps", "-l", "game-config=config-4", "--output=name"])?;
    ensure!(labelled.starts_with("configmap/game-config-4-"), "{labelled}");
    Ok(())
}

fn kept(case: Case<'_>) -> Result<()> {
    for id in ["002-0278", "002-0705", "002-0885", "002-0955", "002-0975", "002-1713", "002-2569"] {
        let text = case.document(id)?;
        let here = format!("  namespace: {}", case.namespace);
        let moved = text.lines().map(|it| if it.starts_with("  namespace: ") { &here } else { it });
        let changed: String = moved.flat_map(|line| [line, "\n"]).collect();
        let made = case.apply_text(&changed).with_context(|| id.to_owned())?;
        let again = case.apply_text(&changed).with_context(|| id.to_owned())?;
        ensure!(
            made.ends_with(" created\n") && again.ends_with(" unchanged\n"),
            "{id}: {made}{again}"
        );
    }
    case.line("delete namespace my-app --wait=false").map(drop)
}

fn unknown_kinds(case: Case<'_>) -> Result<()> {
    let refused = [
        (
            "002-0371",
            "no matches for kind \"HorizontalPodAutoscaler\" in version \"autoscaling/v2beta2\"",
        ),
        ("002-0397", "no matches for kind \"ScaledObject\""),
        ("002-0733", "no matches for kind \"GlobalNetworkPolicy\""),
    ];
    for (id, expected) in refused {
        let text = case.document(id)?;
        let told = case.refused_input(&["apply", "-f", "-"], &text)?;
        ensure!(told.contains(expected), "{id}: {told}");
    }
    Ok(())
}
