import type { Row } from './row.ts';

/** Every row by name, loaded when it is asked for: a process that measures one has no other row's code in it. */
export const registry: Readonly<Record<string, () => Promise<{ readonly row: Row }>>> = {
  'iotlb-hit': () => import('./rows/iotlb-hit.ts'),
  'iotlb-vs-ghash': () => import('./rows/iotlb-vs-ghash.ts'),
  walk4: async () => ({ row: (await import('./rows/walk.ts')).walk4 }),
  walk5: async () => ({ row: (await import('./rows/walk.ts')).walk5 }),
  'walk-nested': async () => ({ row: (await import('./rows/walk.ts')).walkNested }),
  'map-range': async () => ({ row: (await import('./rows/range.ts')).mapRange }),
  'unmap-range': async () => ({ row: (await import('./rows/range.ts')).unmapRange }),
  'interval-map': () => import('./rows/interval-map.ts'),
  'riscv-translate-hit': async () => ({ row: (await import('./rows/riscv.ts')).translateHit }),
  'riscv-translate-miss': async () => ({ row: (await import('./rows/riscv.ts')).translateMiss }),
  'riscv-commands': async () => ({ row: (await import('./rows/riscv.ts')).commands }),
  'virtio-map': () => import('./rows/virtio-map.ts'),
  'put-tce': async () => ({ row: (await import('./rows/tce.ts')).putTce }),
  'put-tce-indirect': async () => ({ row: (await import('./rows/tce.ts')).putTceIndirect }),
  'amd-translate-hit': async () => ({ row: (await import('./rows/amd.ts')).translateHit }),
  'amd-translate-miss': async () => ({ row: (await import('./rows/amd.ts')).translateMiss }),
  'amd-commands': async () => ({ row: (await import('./rows/amd.ts')).commands }),
  'zpci-translate-hit': async () => ({ row: (await import('./rows/zpci.ts')).translateHit }),
  'zpci-translate-miss': async () => ({ row: (await import('./rows/zpci.ts')).translateMiss }),
  'zpci-rpcit': async () => ({ row: (await import('./rows/zpci.ts')).refresh }),
  'dma-read': async () => ({ row: (await import('./rows/tce.ts')).dma }),
  'mmio-dispatch': async () => ({ row: (await import('./rows/vmm.ts')).mmioDispatch }),
  'virtio-block-read': async () => ({ row: (await import('./rows/vmm.ts')).blockRead }),
  'vfio-user-read': () => import('./rows/vfio-user.ts'),
};
