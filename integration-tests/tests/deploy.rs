//! The files of `deploy/`: they parse, the chart with its defaults is the plain manifests, names that have to meet do,
//! and the installer's words are ones that `install` takes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use integration_tests::invocation::Invocation;
use serde::Deserialize as _;
use serde_norway::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(deploy().join(path)).with_context(|| format!("read deploy/{path}"))
}

fn documents(text: &str) -> Result<Vec<Value>> {
    serde_norway::Deserializer::from_str(text)
        .map(|document| Ok(Value::deserialize(document)?))
        .collect()
}

fn document(path: &str) -> Result<Value> {
    let mut all = documents(&read(path)?)?;
    ensure!(all.len() == 1, "{path} has {} documents", all.len());
    all.pop().context("one")
}

/// A template with the chart's values in it. Templates do nothing else, so this is what helm does.
fn rendered(template: &str, values: &Value) -> Result<String> {
    let mut text = read(&format!("helm/templates/{template}"))?;
    for (name, value) in values.as_mapping().context("values are a table")? {
        let (name, value) = (name.as_str(), value.as_str());
        let name = name.context("a name is a text")?;
        let value = value.with_context(|| format!("{name} is no text"))?;
        text = text.replace(&format!("{{{{ .Values.{name} }}}}"), value);
    }
    ensure!(!text.contains("{{"), "no value for a name in\n{text}");
    Ok(text)
}

fn text<'a>(value: &'a Value, path: &[&str]) -> Result<&'a str> {
    let mut at = value;
    for key in path {
        at = match key.parse::<usize>() {
            Ok(index) => &at[index],
            Err(_) => &at[*key],
        };
    }
    at.as_str()
        .with_context(|| format!("no text at {}", path.join(".")))
}

#[test]
fn the_chart_with_its_defaults_is_the_plain_manifests() -> Result<()> {
    let values = document("helm/values.yaml")?;
    let mut names = Vec::new();
    for entry in fs::read_dir(deploy().join("helm/templates"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    ensure!(names == ["installer.yaml", "namespace.yaml", "runtimeclass.yaml"]);
    for name in &names {
        ensure!(
            rendered(name, &values)? == read(&format!("kubernetes/{name}"))?,
            "deploy/helm/templates/{name} and deploy/kubernetes/{name} differ"
        );
    }
    let kustomization = document("kubernetes/kustomization.yaml")?;
    let mut resources = Vec::new();
    for name in kustomization["resources"]
        .as_sequence()
        .context("resources")?
    {
        resources.push(name.as_str().context("a name")?.to_owned());
    }
    resources.sort();
    ensure!(resources == names, "kustomize has {resources:?}");
    let chart = document("helm/Chart.yaml")?;
    ensure!(text(&chart, &["version"])? == env!("CARGO_PKG_VERSION"));
    ensure!(text(&values, &["image"])?.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))));
    Ok(())
}

#[test]
fn the_uninstaller_is_the_installer_with_another_word() -> Result<()> {
    let mut values = document("helm/values.yaml")?;
    values["action"] = "uninstall".into();
    let chart = documents(&rendered("installer.yaml", &values)?)?;
    ensure!(chart == documents(&read("kubernetes/uninstall/uninstaller.yaml")?)?);
    Ok(())
}

#[test]
fn the_installers_words_are_understood() -> Result<()> {
    let shim = integration_tests::binaries().join("containerd-shim-wasi-v1");
    for path in [
        "kubernetes/installer.yaml",
        "kubernetes/uninstall/uninstaller.yaml",
    ] {
        let manifest = document(path)?;
        let pod = &manifest["spec"]["template"]["spec"];
        let words = pod["initContainers"][0]["args"]
            .as_sequence()
            .context("args")?;
        let words = words.iter().filter_map(Value::as_str);
        // Help comes when all words before it are understood, and does nothing.
        let help = Invocation::new(&shim).args(words).arg("--help").success()?;
        ensure!(help.stdout.contains("install|uninstall"), "{help}");
        let odd = Invocation::new(&shim).args(["install", "--odd", "--help"]);
        odd.output()?.exited(1)?;
    }
    Ok(())
}

#[test]
fn names_that_have_to_meet_do() -> Result<()> {
    let class = document("kubernetes/runtimeclass.yaml")?;
    let installer = document("kubernetes/installer.yaml")?;
    let nodes = &installer["spec"]["template"]["spec"]["nodeSelector"];
    ensure!(nodes.is_mapping() && *nodes == class["scheduling"]["nodeSelector"]);
    let handler = text(&class, &["handler"])?;
    let word = Value::from(format!("--runtime-name={handler}"));
    let args = &installer["spec"]["template"]["spec"]["initContainers"][0]["args"];
    ensure!(args.as_sequence().is_some_and(|args| args.contains(&word)));
    let namespace = document("kubernetes/namespace.yaml")?;
    ensure!(namespace["metadata"]["name"] == installer["metadata"]["namespace"]);

    let example = documents(&read("examples/web.yaml")?)?;
    let [deployment, service, scaler] = example.as_slice() else {
        anyhow::bail!("the example has {} documents", example.len());
    };
    let pod = &deployment["spec"]["template"];
    ensure!(pod["spec"]["runtimeClassName"] == class["metadata"]["name"]);
    let labels = &pod["metadata"]["labels"];
    ensure!(labels.is_mapping() && *labels == deployment["spec"]["selector"]["matchLabels"]);
    ensure!(*labels == service["spec"]["selector"]);
    let wasm = &pod["spec"]["containers"][0];
    ensure!(wasm["ports"][0]["name"] == service["spec"]["ports"][0]["targetPort"]);
    ensure!(scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]);
    let metric = &scaler["spec"]["metrics"][0]["containerResource"];
    ensure!(metric["container"] == wasm["name"]);
    // Utilization is a share of the request.
    text(wasm, &["resources", "requests", "cpu"])?;
    Ok(())
}
