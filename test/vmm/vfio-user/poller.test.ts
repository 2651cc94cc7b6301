import { expect, test } from 'vitest';
import { openLibc } from '../../../src/vmm/vfio-user/native/libc.ts';
import { Poller, type Watch } from '../../../src/vmm/vfio-user/native/poller.ts';

test('whoever is closed by one that is called before is not called, though both were ready', async () => {
  const libc = await openLibc();
  const { port } = libc;
  const poller = new Poller(libc);
  const word = port.allocate(8);
  new BigUint64Array(word.buffer)[0] = 1n;
  const fds = [port.eventfd(), port.eventfd(), port.eventfd()];
  for (const fd of fds) port.write(fd, word, 8);
  const called: number[] = [];
  const watches: Watch[] = [];
  await new Promise<void>((done) => {
    fds.forEach((fd, i) => {
      const watch = poller.watch(fd, () => {
        called.push(i);
        watches[i]!.close();
        if (i === 0) watches[1]!.close();
        if (i === 2) done();
      });
      watches.push(watch);
    });
  });
  expect(called).toEqual([0, 2]);
  for (const fd of fds) port.close(fd);
});
