import type { Capability } from '../capability.ts';

/** What the platform's firmware says of the hypervisor and its bridges in the device tree, and what this target has of it. */
export const CAPABILITIES: readonly Capability[] = [
  { name: 'hcall-tce', section: '14.5.4', value: true, reason: 'H_GET_TCE and H_PUT_TCE ("ibm,hypertas-functions")' },
  {
    name: 'hcall-multi-tce',
    section: '14.5.4',
    value: true,
    reason: 'H_PUT_TCE_INDIRECT and H_STUFF_TCE ("ibm,hypertas-functions"); without it Linux makes a call for each page',
  },
  {
    name: 'ibm,ddw-applicable',
    section: '7.3.27',
    value: true,
    reason: 'dynamic DMA windows, for bridges with `ddw`',
  },
  {
    name: 'ibm,ddw-extensions 1: ibm,reset-pe-dma-windows',
    section: '7.3.27',
    value: true,
    reason: 'a new kernel (kexec) finds the windows of the boot',
  },
  {
    name: 'ibm,ddw-extensions 2: six outputs of the query',
    section: '7.3.27.1',
    value: true,
    reason: 'Linux asks for six when the tree says so; TCEs above 2^31 there are none',
  },
  {
    name: 'Multi-TCE-Table option',
    section: '14.5.4.2.4',
    value: false,
    reason: 'a negative LIOBN is H_FUNCTION, as the section asks for; Linux does not use it',
  },
  {
    name: 'redirected TCE tables',
    section: '17',
    value: false,
    reason: 'there is no virtual I/O of PAPR’s kind, so H_PUT_RTCE and the like have no table',
  },
  {
    name: 'shared logical resources',
    section: '14.9',
    value: false,
    reason: 'nothing is taken back from a guest: H_RESCINDED never occurs',
  },
  {
    name: 'CMO option',
    section: '14.12.3',
    value: false,
    reason: 'nothing is entitled; H_NOT_ENOUGH_RESOURCES is used without it (below)',
  },
  {
    name: 'H_MIGRATE_DMA',
    section: '14.5.4',
    value: false,
    reason: 'pages of a guest stay where they are: the query’s migration mask is 0',
  },
];
