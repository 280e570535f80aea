// Draws the clouds of a section, and turns them by dragging and arrow keys.
(() => {
  const section = document.currentScript.previousElementSibling;
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const palette = bytes(section.dataset.palette);
  const select = section.querySelector("select");

  const draw = (view) => {
    const { canvas, points, colors, azimuth, elevation, radius } = view;
    const context = canvas.getContext("2d");
    const count = points.length / 3, half = canvas.width / 2;
    const scale = 0.46 * canvas.width / radius, size = canvas.width / 85;
    const [ca, sa] = [Math.cos(azimuth), Math.sin(azimuth)];
    const [ce, se] = [Math.cos(elevation), Math.sin(elevation)];
    context.fillStyle = "#16191f";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const seen = [];
    for (let i = 0; i < count; i++) {
      const [x, y, z] = points.subarray(3 * i, 3 * i + 3);
      const away = sa * x + ca * y;
      const up = ce * z + se * away, depth = ce * away - se * z;
      seen.push([depth, half + scale * (ca * x - sa * y), half - scale * up, i]);
    }
    seen.sort((a, b) => b[0] - a[0]);
    for (const [depth, x, y, i] of seen) {
      const level = 3 * colors[select.selectedIndex * count + i];
      context.fillStyle = `rgb(${palette.subarray(level, level + 3)})`;
      context.beginPath();
      context.arc(x, y, size * (1 - depth / radius / 4), 0, 2 * Math.PI);
      context.fill();
    }
  };

  const turn = (view, right, up) => {
    view.azimuth += right;
    view.elevation = Math.max(-1.57, Math.min(1.57, view.elevation + up));
    draw(view);
  };

  const views = [...section.querySelectorAll("canvas")].map((canvas) => {
    const points = new Int16Array(bytes(canvas.dataset.points).buffer);
    let radius = 1;
    for (let i = 0; i < points.length; i += 3) {
      radius = Math.max(radius, Math.hypot(...points.subarray(i, i + 3)));
    }
    return {
      canvas, points, radius,
      colors: bytes(canvas.dataset.colors),
      azimuth: Number(section.dataset.azimuth),
      elevation: Number(section.dataset.elevation),
    };
  });
  const keys = {
    ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0],
    ArrowUp: [0, -0.15], ArrowDown: [0, 0.15],
  };
  for (const view of views) {
    const { canvas } = view;
    let last = [0, 0];
    canvas.addEventListener("pointerdown", (event) => {
      last = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      turn(view, (event.clientX - last[0]) / 100, (event.clientY - last[1]) / 100);
      last = [event.clientX, event.clientY];
    });
    canvas.addEventListener("keydown", (event) => {
      if (event.key in keys) {
        event.preventDefault();
        turn(view, ...keys[event.key]);
      }
    });
    draw(view);
  }
  select.addEventListener("change", () => views.forEach(draw));
})();
