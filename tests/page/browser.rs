//! A headless Chromium, spoken to over its debugging protocol.

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One browser with one page.
pub(crate) struct Browser {
    child: Child,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    session: Value,
    next: u64,
    /// What the browser told by itself.
    events: Vec<Value>,
    /// Its profile, and what it downloads.
    folder: TempDir,
}

fn program() -> Option<PathBuf> {
    let given = std::env::var_os("AURIST_CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    given.or_else(|| {
        let mut places = std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name)));
        places.find(|place| place.is_file())
    })
}

impl Browser {
    /// A browser that hears this recording when it is asked for the microphone; `None`, and it says so, where there is no
    /// Chromium.
    pub(crate) fn start(microphone: &Path) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("skipped: there is no Chromium (AURIST_CHROMIUM names one)");
            return None;
        };
        let folder = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(program)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--no-first-run",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--hide-scrollbars",
            ])
            .args([
                "--remote-debugging-port=0",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ])
            .arg(format!(
                "--use-file-for-fake-audio-capture={}%noloop",
                microphone.display()
            ))
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Chromium");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("DevTools listening on ").map(String::from))
            .expect("the browser listens");
        std::thread::spawn(move || lines.for_each(drop));
        let (socket, _) = tungstenite::connect(address).expect("a connection");
        let mut browser = Self {
            child,
            socket,
            session: Value::Null,
            next: 0,
            events: Vec::new(),
            folder,
        };
        let targets = browser.call("Target.getTargets", json!({}));
        let page = targets["targetInfos"]
            .as_array()
            .expect("targets")
            .iter()
            .find(|target| target["type"] == "page");
        let id = page.expect("a page")["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": id, "flatten": true }));
        browser.session = attached["sessionId"].clone();
        for domain in ["Page", "Runtime", "Network", "Log", "DOM", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let downloads = browser.downloads();
        fs::create_dir(&downloads).expect("a directory");
        browser.call(
            "Browser.setDownloadBehavior",
            json!({ "behavior": "allow", "downloadPath": downloads }),
        );
        Some(browser)
    }

    /// A command of the protocol, and its result.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        // The browser's own commands belong to no page.
        if !method.starts_with("Browser.") && !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.socket
            .send(Message::Text(message.to_string().into()))
            .expect("sent");
        loop {
            let Message::Text(text) = self.socket.read().expect("the browser answers") else {
                continue;
            };
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            if answer["id"].is_null() {
                self.events.push(answer);
            }
        }
    }

    /// Opens an address, to its load event.
    pub(crate) fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({ "url": address }));
        self.until(
            "the page is there",
            "document.readyState === 'complete' && location.href !== 'about:blank'",
        );
    }

    /// A script's value; promises are waited for.
    pub(crate) fn eval(&mut self, script: &str) -> Value {
        let params = json!({ "expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{script}: {result}");
        result["result"]["value"].clone()
    }

    pub(crate) fn text(&mut self, script: &str) -> String {
        self.eval(script)
            .as_str()
            .unwrap_or_else(|| panic!("no text: {script}"))
            .to_owned()
    }

    /// Waits until a script's value is true.
    pub(crate) fn until(&mut self, what: &str, script: &str) {
        let begun = Instant::now();
        while self.eval(script) != json!(true) {
            let page = "document.body ? document.body.innerText : ''";
            assert!(
                begun.elapsed() < PATIENCE,
                "{what}: not so after {PATIENCE:?}; the page: {}",
                self.text(page)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A key, pressed and let go.
    pub(crate) fn key(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            " " => (32, " "),
            "ArrowDown" => (40, ""),
            other => panic!("no key {other}"),
        };
        let name = if key == " " { "Space" } else { key };
        let mut params = json!({ "type": "keyDown", "key": key, "code": name, "windowsVirtualKeyCode": code });
        if !text.is_empty() {
            params["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", params.clone());
        params["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", params);
    }

    /// Tab, until an element has the focus.
    pub(crate) fn tab_to(&mut self, id: &str) {
        for _ in 0..30 {
            if self.eval("document.activeElement.id") == json!(id) {
                return;
            }
            self.key("Tab");
        }
        panic!("no way to #{id} by keyboard");
    }

    /// Chooses a file in an input.
    pub(crate) fn choose(&mut self, selector: &str, file: &Path) {
        let document = self.call("DOM.getDocument", json!({}));
        let root = document["root"]["nodeId"].clone();
        let found = self.call("DOM.querySelector", json!({ "nodeId": root, "selector": selector }));
        self.call(
            "DOM.setFileInputFiles",
            json!({ "files": [file], "nodeId": found["nodeId"] }),
        );
    }

    /// The window's size, and light or dark.
    pub(crate) fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let phone = width < 600;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// A picture of the whole page, in target/page/.
    pub(crate) fn picture(&mut self, name: &str) {
        use base64::Engine;
        let shot = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let png = base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().expect("a picture"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/page");
        fs::create_dir_all(&folder).expect("a directory");
        fs::write(folder.join(name).with_extension("png"), png.expect("base64")).expect("a picture");
    }

    fn downloads(&self) -> PathBuf {
        self.folder.path().join("downloads")
    }

    /// A downloaded file, when it is whole.
    pub(crate) fn downloaded(&mut self, name: &str) -> String {
        let path = self.downloads().join(name);
        let begun = Instant::now();
        while !path.exists() {
            assert!(begun.elapsed() < PATIENCE, "{name} was not downloaded");
            std::thread::sleep(Duration::from_millis(50));
        }
        fs::read_to_string(path).expect("text")
    }

    /// Every address that was asked for.
    pub(crate) fn requested(&mut self) -> Vec<String> {
        self.call("Runtime.evaluate", json!({ "expression": "1" }));
        let address = |event: &Value| match event["method"].as_str()? {
            "Network.requestWillBeSent" => event["params"]["request"]["url"].as_str().map(String::from),
            "Network.webSocketCreated" => event["params"]["url"].as_str().map(String::from),
            _ => None,
        };
        self.events.iter().filter_map(address).collect()
    }

    /// What went wrong in the page: exceptions, and errors in its log (a refused script or style, a failed request).
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        self.call("Runtime.evaluate", json!({ "expression": "1" }));
        let complaint = |event: &&Value| {
            let method = event["method"].as_str().unwrap_or_default();
            let level = event["params"]["entry"]["level"].as_str().unwrap_or_default();
            method == "Runtime.exceptionThrown" || (method == "Log.entryAdded" && level == "error")
        };
        self.events
            .iter()
            .filter(complaint)
            .map(|event| event["params"].to_string())
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
