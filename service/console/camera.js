// One photo from the camera, or a sentence that says why there is none.

import { byId, element } from "./dom.js";
import { closable } from "./dialogs.js";

const REASONS = {
  NotAllowedError: "The camera was not allowed. Allow it for this page in the browser's settings, or choose a file instead.",
  NotFoundError: "No camera was found. Choose a file instead.",
  NotReadableError: "The camera is in use by another program. Close it there, or choose a file instead.",
};
const NO_CAMERA_HERE = "Browsers give the camera only to pages over https or on this machine. Open the console that way, or choose a file instead.";

let stream = null;
let deliver = null;

/** Open the dialog; `taken(file)` gets the photo. */
export function openCamera(taken) {
  deliver = taken;
  byId("camera-problem").hidden = true;
  byId("camera-field").hidden = true;
  byId("camera-video").hidden = false;
  byId("camera-dialog").showModal();
  watch({ facingMode: "user" });
}

export function startCamera() {
  closable(byId("camera-dialog"));
  byId("camera-dialog").addEventListener("close", stop);
  byId("camera-device").addEventListener("change", (event) => watch({ deviceId: { exact: event.target.value } }));
  byId("camera-take").addEventListener("click", take);
}

async function watch(wanted) {
  stop();
  if (!navigator.mediaDevices?.getUserMedia) return explain(NO_CAMERA_HERE);
  try {
    const opened = await navigator.mediaDevices.getUserMedia({ audio: false, video: { ...wanted, width: { ideal: 1280 } } });
    if (!byId("camera-dialog").open) return opened.getTracks().forEach((track) => track.stop());
    stream = opened;
    byId("camera-video").srcObject = stream;
    await byId("camera-video").play();
    byId("camera-take").hidden = false;
    byId("camera-take").focus();
    await offerDevices();
  } catch (error) {
    explain(REASONS[error.name] ?? `The camera cannot be used: ${error.message}. Choose a file instead.`);
  }
}

async function offerDevices() {
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput");
  const now = stream?.getVideoTracks()[0]?.getSettings().deviceId;
  byId("camera-device").replaceChildren(...cameras.map((camera, index) =>
    element("option", { value: camera.deviceId, selected: camera.deviceId === now }, camera.label || `Camera ${index + 1}`)));
  byId("camera-field").hidden = cameras.length < 2;
}

function explain(text) {
  byId("camera-problem").textContent = text;
  byId("camera-problem").hidden = false;
  byId("camera-take").hidden = byId("camera-video").hidden = true;
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  byId("camera-video").srcObject = null;
  byId("camera-take").hidden = true;
}

function take() {
  const video = byId("camera-video");
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    byId("camera-dialog").close();
    deliver(new File([blob], "camera.jpg", { type: "image/jpeg" }));
  }, "image/jpeg", 0.95);
}
