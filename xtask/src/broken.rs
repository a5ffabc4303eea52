//! `cargo xtask broken`: the manifests that are broken, as upstream's kubectl sees them and as the server sees their raw
//! bytes. Every one must be answered in upstream's words and leave the server as it was.

#![allow(clippy::print_stdout, reason = "this is a program for people")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{self, program};
use crate::replay::{BARE, Server};
use crate::{Places, install};

/// Beside the tables: manifests that are no good.
const MANIFESTS: &str = "../requirements/corpus/invalid";
/// What is looked at before and after.
const LISTS: [&str; 4] = [
    "/api/v1/pods",
    "/apis/apps/v1/deployments",
    "/api/v1/configmaps",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
];

/// A manifest and what is said of it. `FILE` stands for its path.
struct Case {
    file: &'static str,
    /// What kubectl prints.
    kubectl: &'static str,
    /// The bytes as a request: method, path, media type; then code and message.
    raw: (&'static str, &'static str, &'static str, u16, &'static str),
}

const CASES: &[Case] = &[
    Case {
        file: "000-0239-containers-prestop-netstat.yaml",
        kubectl: "error: error validating \"FILE\": error validating data: [apiVersion not set, kind not set]; if you choose to ignore these errors, turn validation off with --validate=false",
        raw: (
            "POST",
            "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict",
            "application/yaml",
            400,
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"containers\"",
        ),
    },
    Case {
        file: "000-0610-Pod-pod-name-placeholder.yaml",
        kubectl: "error: error parsing FILE: error converting YAML to JSON: yaml: line 8: mapping values are not allowed in this context",
        raw: (
            "POST",
            "/api/v1/namespaces/default/pods",
            "application/yaml",
            400,
            "the object provided is unrecognized (must be of type Pod): yaml: line 8: mapping values are not allowed in this context (61706956657273696f6e3a2076310a6b696e643a20506f640a6d65746164 ...)",
        ),
    },
    Case {
        file: "001-0746-JSONPatch-remove-example.com-dongle.json",
        kubectl: "error: error validating \"FILE\": error validating data: invalid object to validate; if you choose to ignore these errors, turn validation off with --validate=false",
        raw: (
            "PATCH",
            "/api/v1/namespaces/default",
            "application/json-patch+json",
            400,
            "error decoding patch: invalid character '}' looking for beginning of object key string",
        ),
    },
    Case {
        file: "002-0616-CiliumCIDRGroup-and-CiliumNetworkPolicy-vpn-example-1.yaml",
        // Of each repeated key the last counts: the second document's, whose separator is missing.
        kubectl: "error: resource mapping not found for name: \"from-vpn-example\" namespace: \"\" from \"FILE\": no matches for kind \"CiliumNetworkPolicy\" in version \"cilium.io/v2\"\nensure CRDs are installed first",
        raw: (
            "POST",
            "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies",
            "application/yaml",
            404,
            "404 page not found",
        ),
    },
    Case {
        file: "002-2160-unnamed-kind-example-deployment.yaml",
        kubectl: "error: error validating \"FILE\": error validating data: kind not set; if you choose to ignore these errors, turn validation off with --validate=false",
        // The server takes the kind from the URL.
        raw: (
            "POST",
            "/apis/apps/v1/namespaces/default/deployments?dryRun=All",
            "application/yaml",
            201,
            "",
        ),
    },
];

/// Plays every case; fails where one is answered otherwise.
pub(crate) fn run(places: &Places) -> Result<()> {
    let manifests = places.reference.join(MANIFESTS);
    if !manifests.is_dir() {
        println!("broken: {} is not there, skipped", manifests.display());
        return Ok(());
    }
    let player = Player {
        kubectl: install::clients(&places.root)?.join("bin/kubectl"),
        server: Server::start(places, BARE)?,
        root: places.root.clone(),
    };
    every_file_has_a_case(&manifests)?;
    let before = player.objects()?;
    let mut wrong = Vec::new();
    for case in CASES {
        player.play(case, &manifests, &mut wrong)?;
    }
    if player.objects()? != before {
        wrong.push("the server does not hold what it held".to_owned());
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("broken: {} manifests are refused in upstream's words", CASES.len());
    Ok(())
}

/// A file without a case would be a file without a test.
fn every_file_has_a_case(manifests: &Path) -> Result<()> {
    for entry in std::fs::read_dir(manifests)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !CASES.iter().any(|case| case.file == name) {
            bail!("{name} is in the corpus and has no case in xtask/src/broken.rs");
        }
    }
    Ok(())
}

struct Player {
    kubectl: PathBuf,
    server: Server,
    root: PathBuf,
}

impl Player {
    fn play(&self, case: &Case, manifests: &Path, wrong: &mut Vec<String>) -> Result<()> {
        let file = manifests.join(case.file);
        let path = file.to_string_lossy().into_owned();
        let output = program(
            &self.kubectl.to_string_lossy(),
            &self.flags(&["apply", "-f", &path]),
            &self.root,
        )
        .output()
        .context("could not start kubectl")?;
        let said = String::from_utf8_lossy(&output.stderr).trim_end().replace(&path, "FILE");
        if output.status.success() || said != case.kubectl {
            wrong.push(format!("{}\n  wanted {}\n  got    {said}", case.file, case.kubectl));
        }
        let (method, url, media, code, message) = case.raw;
        let (got, said) = self.send(method, url, media, &path)?;
        if got != code || !(message.is_empty() || said.trim_end() == message) {
            wrong.push(format!("{method} {url}\n  wanted {code} {message}\n  got    {got} {said}"));
        }
        Ok(())
    }

    fn flags<'f>(&'f self, arguments: &[&'f str]) -> Vec<&'f str> {
        let mut all = vec![
            "--server",
            self.server.url(),
            "--token",
            "replay",
            "--insecure-skip-tls-verify",
            "--kubeconfig=/dev/null",
        ];
        all.extend(arguments);
        all
    }

    /// Code and message of the answer to a file's bytes.
    fn send(&self, method: &str, path: &str, media: &str, file: &str) -> Result<(u16, String)> {
        let url = format!("{}{path}", self.server.url());
        let (body, media) = (format!("@{file}"), format!("Content-Type: {media}"));
        let token = "Authorization: Bearer replay";
        let arguments = [
            "-sk",
            "-X",
            method,
            "-H",
            token,
            "-H",
            &media,
            "--data-binary",
            &body,
            "-w",
            "\n%{http_code}",
            &url,
        ];
        let printed = command::output("curl", &arguments, &self.root)?;
        let (text, code) = printed.trim_end().rsplit_once('\n').context("curl printed no code")?;
        let status: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let message = status["message"].as_str().unwrap_or(text).to_owned();
        Ok((code.parse()?, message))
    }

    fn objects(&self) -> Result<Vec<String>> {
        let get = |path: &&str| {
            let arguments = self.flags(&["get", "--raw", path]);
            // A group that is not served is none before and none after.
            let output =
                program(&self.kubectl.to_string_lossy(), &arguments, &self.root).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        LISTS.iter().map(get).collect()
    }
}
