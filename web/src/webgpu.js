export * as ort from "onnxruntime-web/webgpu";
