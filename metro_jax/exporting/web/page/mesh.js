// Draws a mesh over a picture with WebGL: orthographic, in the picture's pixels.
const FINEST = 1600; // pixels of the drawing's longer side, also over small pictures
const VERTEX = `
attribute vec3 position, normal;
uniform mat3 turn;
uniform vec3 middle;
uniform vec2 size;
uniform float zoom;
varying vec3 facing;
void main() {
  vec3 p = zoom * (turn * (position - middle)) + middle;
  facing = turn * normal;
  float depth = (p.z - middle.z) / (4.0 * zoom * max(size.x, size.y));
  gl_Position = vec4(2.0 * p.x / size.x - 1.0, 1.0 - 2.0 * p.y / size.y, depth, 1.0);
}`;
const FRAGMENT = `
precision mediump float;
varying vec3 facing;
void main() {
  vec3 n = normalize(facing);
  float light = 0.27 + 0.68 * max(dot(n, normalize(vec3(-0.45, -0.65, -0.62))), 0.0)
    + 0.24 * max(dot(n, normalize(vec3(0.75, -0.15, -0.65))), 0.0) + 0.12 * max(-n.y, 0.0);
  gl_FragColor = vec4(min(light, 1.0) * vec3(0.66, 0.77, 0.92), 1.0);
}`;

export class Mesh {
  constructor(canvas, faces) {
    this.canvas = canvas;
    this.faces = faces;
    this.middle = null;
    const gl = (this.gl = canvas.getContext("webgl", { preserveDrawingBuffer: true }));
    if (!gl || !gl.getExtension("OES_element_index_uint")) throw new Error("this browser has no WebGL");
    const program = (this.program = gl.createProgram());
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    this.buffers = ["position", "normal"].map((name) => {
      const place = gl.getAttribLocation(program, name), buffer = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
      return buffer;
    });
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    this.reset();
  }

  resize(width, height) {
    const finer = Math.max(1, FINEST / Math.max(width, height));
    this.size = [width, height];
    [this.canvas.width, this.canvas.height] = this.size.map((length) => Math.round(length * finer));
  }

  reset() {
    this.yaw = this.pitch = 0;
    this.zoom = 1;
  }

  isTurned() {
    return this.yaw !== 0 || this.pitch !== 0 || this.zoom !== 1;
  }

  set(vertices) {
    const gl = this.gl, positions = new Float32Array(vertices.flat());
    const sums = [0, 1, 2].map((k) => vertices.reduce((sum, p) => sum + p[k], 0));
    this.middle = sums.map((sum) => sum / vertices.length);
    for (const [buffer, data] of [[this.buffers[0], positions], [this.buffers[1], normals(positions, this.faces)]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    }
  }

  draw() {
    const gl = this.gl, { width, height } = this.canvas;
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (!this.middle) return;
    const [c, s, d, t] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const turn = [c, t * s, -d * s, 0, d, t, s, -t * c, d * c]; // pitch after yaw, by columns
    const place = (name) => gl.getUniformLocation(this.program, name);
    gl.uniformMatrix3fv(place("turn"), false, turn);
    gl.uniform3fv(place("middle"), this.middle);
    gl.uniform2fv(place("size"), this.size);
    gl.uniform1f(place("zoom"), this.zoom);
    gl.drawElements(gl.TRIANGLES, this.faces.length, gl.UNSIGNED_INT, 0);
  }
}

// The means of the triangles' normals by area; outwards, y down and z away.
function normals(p, faces) {
  const sums = new Float32Array(p.length);
  for (let f = 0; f < faces.length; f += 3) {
    const [i, j, k] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
    const u = [p[j] - p[i], p[j + 1] - p[i + 1], p[j + 2] - p[i + 2]];
    const v = [p[k] - p[i], p[k + 1] - p[i + 1], p[k + 2] - p[i + 2]];
    const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    for (const corner of [i, j, k]) for (let m = 0; m < 3; m++) sums[corner + m] += n[m];
  }
  return sums;
}
