/* The U-Net of ddpmlib/models/unet.py, one image at a time, in the browser and in Node.
 *
 * UNet.load(exported) takes what `ddpmlib export-web` writes and returns {forward(x, t, label)}.
 * A feature map is {c, h, w, data}, data a Float32Array in the order channel, row, column. Every
 * convolution becomes a matrix product with the unrolled patches of its input, summed in double
 * precision. tests/book/test_unet_js.py holds the network against PyTorch.
 */
"use strict";

(function (global) {
  // ---- weights: ddpmlib/web_export.py ------------------------------------------------------

  function buffer(base64) {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
  }

  /**
   * Float32Arrays by name. Vectors are stored as they are, matrices as scale x level by rows. A
   * level is a number of one or two letters, the digits of base 91, less the middle number.
   */
  function readTensors(exported) {
    const floats = new Float32Array(buffer(exported.floats));
    const digit = new Uint8Array(128), base = exported.letters.length, found = {};
    [...exported.letters].forEach((letter, k) => { digit[letter.charCodeAt(0)] = k; });
    let float = 0, place = 0;
    function level(letters) {
      let code = 0;
      for (const end = place + letters; place < end; place += 1) {
        code = code * base + digit[exported.levels.charCodeAt(place)];
      }
      return code - Math.floor(base ** letters / 2);
    }
    for (const [name, shape, letters] of exported.tensors) {
      const rows = shape[0], width = shape.slice(1).reduce((a, b) => a * b, 1);
      const own = floats.subarray(float, (float += rows));
      const scaled = (_, i) => own[Math.floor(i / width)] * level(letters);
      found[name] = letters ? Float32Array.from({ length: rows * width }, scaled) : own;
    }
    return found;
  }

  // ---- matrix product ----------------------------------------------------------------------

  let scratch = new Float32Array(0);

  /** Working memory for at least `size` numbers, shared by all layers; its content is arbitrary. */
  function workspace(size) {
    if (scratch.length < size) scratch = new Float32Array(size);
    return scratch;
  }

  const up4 = (n) => 4 * Math.ceil(n / 4);
  const tile = new Float64Array(16);

  /**
   * out[i, j] = bias[i] + sum over l of a[i, l] b[j, l], in tiles of 4 x 4. Both `a` (m rows of k)
   * and `b` (n rows of k) must have room for rows up to the next multiple of four.
   */
  function product(a, bias, b, out, m, n, k) {
    for (let i = 0; i < m; i += 4) {
      for (let j = 0; j < n; j += 4) {
        tileProduct(a, i * k, b, j * k, k);
        const rows = Math.min(4, m - i), columns = Math.min(4, n - j);
        for (let r = 0; r < rows; r += 1) {
          for (let c = 0; c < columns; c += 1) {
            out[(i + r) * n + j + c] = tile[4 * r + c] + bias[i + r];
          }
        }
      }
    }
  }

  // Sixteen sums in sixteen variables: this loop takes nearly all the time of the network.
  function tileProduct(a, a0, b, b0, k) {
    const a1 = a0 + k, a2 = a1 + k, a3 = a2 + k, b1 = b0 + k, b2 = b1 + k, b3 = b2 + k;
    let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
    let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
    for (let l = 0; l < k; l += 1) {
      const p = b[b0 + l], q = b[b1 + l], r = b[b2 + l], s = b[b3 + l];
      let w = a[a0 + l];
      s00 += w * p; s01 += w * q; s02 += w * r; s03 += w * s;
      w = a[a1 + l];
      s10 += w * p; s11 += w * q; s12 += w * r; s13 += w * s;
      w = a[a2 + l];
      s20 += w * p; s21 += w * q; s22 += w * r; s23 += w * s;
      w = a[a3 + l];
      s30 += w * p; s31 += w * q; s32 += w * r; s33 += w * s;
    }
    tile[0] = s00; tile[1] = s01; tile[2] = s02; tile[3] = s03;
    tile[4] = s10; tile[5] = s11; tile[6] = s12; tile[7] = s13;
    tile[8] = s20; tile[9] = s21; tile[10] = s22; tile[11] = s23;
    tile[12] = s30; tile[13] = s31; tile[14] = s32; tile[15] = s33;
  }

  // ---- layers: each takes its weights and returns a function of feature maps ---------------

  const map = (c, h, w) => ({ c, h, w, data: new Float32Array(c * h * w) });

  /** A convolution of a square kernel, padded so that stride 1 keeps the size. */
  function convolution(weights, name, size, stride = 1) {
    const bias = weights[`${name}.bias`], m = bias.length;
    const k = weights[`${name}.weight`].length / m;
    const a = new Float32Array(up4(m) * k);
    a.set(weights[`${name}.weight`]);
    return (x) => {
      const out = map(m, Math.ceil(x.h / stride), Math.ceil(x.w / stride)), n = out.h * out.w;
      product(a, bias, unrolled(padded(x, (size - 1) / 2), size, stride, out), out.data, m, n, k);
      return out;
    };
  }

  function padded(x, margin) {
    if (!margin) return x;
    const out = map(x.c, x.h + 2 * margin, x.w + 2 * margin);
    for (let row = 0; row < x.c * x.h; row += 1) {
      const c = Math.floor(row / x.h), y = row % x.h + margin;
      out.data.set(x.data.subarray(row * x.w, (row + 1) * x.w), (c * out.h + y) * out.w + margin);
    }
    return out;
  }

  /** One row for each pixel of the output: the patch that it sees, channel by channel. */
  function unrolled(x, size, stride, { h, w }) {
    const rows = workspace(up4(h * w) * x.c * size * size), plane = x.h * x.w;
    let at = 0;
    for (let pixel = 0; pixel < h * w; pixel += 1) {
      const corner = Math.floor(pixel / w) * stride * x.w + (pixel % w) * stride;
      for (let c = 0; c < x.c; c += 1) {
        for (let dy = 0; dy < size; dy += 1) {
          const from = c * plane + corner + dy * x.w;
          for (let dx = 0; dx < size; dx += 1) rows[at++] = x.data[from + dx];
        }
      }
    }
    return rows;
  }

  function linear(weights, name) {
    const bias = weights[`${name}.bias`], weight = weights[`${name}.weight`];
    const k = weight.length / bias.length;
    return (x) => Float32Array.from(bias, (sum, i) => {
      for (let l = 0; l < k; l += 1) sum += weight[i * k + l] * x[l];
      return sum;
    });
  }

  const silu = (u) => u / (1 + Math.exp(-u));

  /** Group normalisation; film, if given, holds a scale and then a shift per channel (3.11). */
  function groupNorm(weights, name, groups) {
    const gain = weights[`${name}.weight`], bias = weights[`${name}.bias`];
    return (x, activation, film = null) => {
      const out = map(x.c, x.h, x.w), plane = x.h * x.w, size = (x.c / groups) * plane;
      for (let c = 0, mean, std; c < x.c; c += 1) {
        if (c % (x.c / groups) === 0) [mean, std] = moments(x.data, c * plane, size);
        const by = film ? 1 + film[c] : 1, shift = film ? film[x.c + c] : 0;
        const slope = (gain[c] / std) * by, level = bias[c] * by + shift - mean * slope;
        for (let i = c * plane; i < (c + 1) * plane; i += 1) {
          out.data[i] = activation(slope * x.data[i] + level);
        }
      }
      return out;
    };
  }

  function moments(data, start, size) {
    let sum = 0, squares = 0;
    for (let i = start; i < start + size; i += 1) sum += data[i];
    for (let i = start; i < start + size; i += 1) squares += (data[i] - sum / size) ** 2;
    return [sum / size, Math.sqrt(squares / size + 1e-5)];
  }

  function added(x, y) {
    for (let i = 0; i < x.data.length; i += 1) x.data[i] += y.data[i];
    return x;
  }

  /** Self-attention (3.12); the channels of qkv run over (q, k, v), head, feature. */
  function selfAttention(weights, name, { groups, heads }) {
    const norm = groupNorm(weights, `${name}.norm`, groups);
    const qkv = convolution(weights, `${name}.qkv`, 1), out = convolution(weights, `${name}.out`, 1);
    return (x) => {
      const all = qkv(norm(x, (u) => u)), mixed = map(x.c, x.h, x.w), n = x.h * x.w, d = x.c / heads;
      const share = new Float64Array(n);
      for (let head = 0; head < heads; head += 1) {
        const [q, k, v] = [0, 1, 2].map((part) => (part * x.c + head * d) * n);
        for (let i = 0; i < n; i += 1) {
          softmax(all.data, q + i, k, n, d, share);
          for (let f = 0; f < d; f += 1) {
            let sum = 0;
            for (let j = 0; j < n; j += 1) sum += share[j] * all.data[v + f * n + j];
            mixed.data[(head * d + f) * n + i] = sum;
          }
        }
      }
      return added(out(mixed), x);
    };
  }

  /** How much the pixel behind `q` looks at each of the n pixels behind `k`. */
  function softmax(data, q, k, n, d, share) {
    let largest = -Infinity, total = 0;
    for (let j = 0; j < n; j += 1) {
      let dot = 0;
      for (let f = 0; f < d; f += 1) dot += data[q + f * n] * data[k + f * n + j];
      share[j] = dot / Math.sqrt(d);
      if (share[j] > largest) largest = share[j];
    }
    for (let j = 0; j < n; j += 1) total += share[j] = Math.exp(share[j] - largest);
    for (let j = 0; j < n; j += 1) share[j] /= total;
  }

  function block(weights, name, config) {
    const has = (part) => `${name}.${part}.weight` in weights;
    const norm1 = groupNorm(weights, `${name}.norm1`, config.groups);
    const norm2 = groupNorm(weights, `${name}.norm2.norm`, config.groups);
    const conv1 = convolution(weights, `${name}.conv1`, 3);
    const conv2 = convolution(weights, `${name}.conv2`, 3);
    const film = linear(weights, `${name}.norm2.film`);
    const skip = has("skip") ? convolution(weights, `${name}.skip`, 1) : (x) => x;
    const look = has("attention.qkv")
      ? selfAttention(weights, `${name}.attention`, config) : (x) => x;
    return (x, emb) => look(added(conv2(norm2(conv1(norm1(x, silu)), silu, film(emb))), skip(x)));
  }

  function upsample(weights, name) {
    const smooth = convolution(weights, `${name}.conv`, 3);
    return (x) => {
      const out = map(x.c, 2 * x.h, 2 * x.w);
      for (let i = 0; i < out.data.length; i += 1) {
        const row = Math.floor(i / out.w), y = row % out.h, c = Math.floor(row / out.h);
        out.data[i] = x.data[(c * x.h + (y >> 1)) * x.w + ((i % out.w) >> 1)];
      }
      return smooth(out);
    };
  }

  function joined(x, y) {
    const out = map(x.c + y.c, x.h, x.w);
    out.data.set(x.data);
    out.data.set(y.data, x.data.length);
    return out;
  }

  /** Pixels of patch x patch squares become channels; shuffled(...) is the way back. */
  function unshuffled(x, patch) {
    const out = map(x.c * patch * patch, x.h / patch, x.w / patch);
    eachPixel(out, x, patch, (inside, outside) => { out.data[inside] = x.data[outside]; });
    return out;
  }

  function shuffled(x, patch) {
    const out = map(x.c / (patch * patch), x.h * patch, x.w * patch);
    eachPixel(x, out, patch, (inside, outside) => { out.data[outside] = x.data[inside]; });
    return out;
  }

  function eachPixel(coarse, fine, patch, visit) {
    for (let i = 0; i < coarse.data.length; i += 1) {
      const x = i % coarse.w, y = Math.floor(i / coarse.w) % coarse.h;
      const channel = Math.floor(i / (coarse.w * coarse.h));
      const dx = channel % patch, dy = Math.floor(channel / patch) % patch;
      const c = Math.floor(channel / (patch * patch));
      visit(i, (c * fine.h + y * patch + dy) * fine.w + x * patch + dx);
    }
  }

  // ---- time and class: ddpmlib/models/embedding.py -----------------------------------------

  /** (3.10), rounded to single precision where PyTorch rounds: the sine of 1000 notices. */
  function sinusoidal(t, dim) {
    const half = dim / 2, round = Math.fround, decay = round(-Math.log(10000));
    const angle = (k) => round(t * round(Math.exp(round(round(decay * k) / half))));
    return Float32Array.from({ length: dim }, (_, i) =>
      (i < half ? Math.sin(angle(i)) : Math.cos(angle(i - half))));
  }

  /** The vector of time and class; a label of -1 means no class. */
  function embedding(weights, { width, num_classes: classes }) {
    const first = linear(weights, "embed.time.0"), second = linear(weights, "embed.time.2");
    const dim = 4 * width;
    return (t, label) => {
      const h = second(first(sinusoidal(t, dim)).map(silu));
      const row = (label < 0 ? classes : label) * dim;
      return classes ? h.map((u, i) => u + weights["embed.label.weight"][row + i]) : h;
    };
  }

  // ---- the network -------------------------------------------------------------------------

  /** The layers on the way down and up, in the order in which ddpmlib numbers them. */
  function layers(weights, config) {
    const down = [], up = [], levels = config.mults.length;
    const nextBlock = (list, way) => list.push(block(weights, `${way}.${list.length}`, config));
    for (let level = 0; level < levels; level += 1) {
      if (level) down.push(convolution(weights, `down.${down.length}.conv`, 3, 2));
      for (let i = 0; i < config.blocks; i += 1) nextBlock(down, "down");
    }
    for (let level = levels - 1; level >= 0; level -= 1) {
      for (let i = 0; i <= config.blocks; i += 1) nextBlock(up, "up");
      if (level) up.push(Object.assign(upsample(weights, `up.${up.length}`), { keepsSkips: true }));
    }
    return { down, mid: [0, 1].map((i) => block(weights, `mid.${i}`, config)), up };
  }

  /**
   * The network behind an export. forward(x, t, label) takes an image (channels x rows x columns,
   * flat, in [-1, 1]), a time and a class (-1: none), and returns the network's answer, flat.
   */
  function load(exported) {
    const { config, image_shape: [channels, height, width] } = exported;
    const weights = readTensors(exported), { down, mid, up } = layers(weights, config);
    const embed = embedding(weights, config), enter = convolution(weights, "inp", 3);
    const norm = groupNorm(weights, "out_norm", config.groups), leave = convolution(weights, "out", 3);
    const forward = (x, t, label) => {
      const emb = embed(t, label).map(silu), image = { c: channels, h: height, w: width, data: x };
      let h = enter(unshuffled(image, config.patch));
      const skips = [h];
      for (const layer of down) skips.push(h = layer(h, emb));
      for (const layer of mid) h = layer(h, emb);
      for (const layer of up) h = layer(layer.keepsSkips ? h : joined(h, skips.pop()), emb);
      return shuffled(leave(norm(h, silu)), config.patch).data;
    };
    return { forward };
  }

  global.UNet = { load };
  if (typeof module !== "undefined") module.exports = global.UNet;
})(typeof window === "undefined" ? globalThis : window);
