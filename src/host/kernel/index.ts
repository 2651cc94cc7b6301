export { openKernelPort } from './kernel-port.ts';
