// informer.mjs KUBECONFIG NAMESPACE RECORD: follows ConfigMaps and Widgets by the informer of @kubernetes/client-node.
//
// What it is told goes to RECORD, a line of JSON each; what is in its caches at the end, when it is told to stop, too.
import { appendFileSync } from 'node:fs';
import { CoreV1Api, CustomObjectsApi, KubeConfig, makeInformer } from '@kubernetes/client-node';

const [group, version, plural] = ['clients.example.com', 'v1', 'widgets'];
const labelSelector = 'followed=yes';
/** Before an informer that has failed is started again, in milliseconds: it is its user who has to. */
const PAUSE = 200;

const [kubeconfig, namespace, record] = process.argv.slice(2);
const tell = (line) => appendFileSync(record, `${JSON.stringify(line)}\n`);
const facts = (kind, { metadata, data, spec }) => ({
    kind,
    name: metadata.name,
    uid: metadata.uid,
    version: metadata.resourceVersion,
    n: Number(spec?.n ?? data.n),
});

const config = new KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(CoreV1Api);
const custom = config.makeApiClient(CustomObjectsApi);

const informers = {};
function follow(kind, path, list) {
    const counted = () => {
        tell({ event: 'list', kind });
        return list();
    };
    const informer = makeInformer(config, path, counted, labelSelector);
    for (const [event, word] of [['add', 'set'], ['update', 'set'], ['delete', 'gone']]) {
        informer.on(event, (it) => tell({ event: word, ...facts(kind, it) }));
    }
    informer.on('error', () => setTimeout(() => informer.start(), PAUSE));
    informers[kind] = informer;
    informer.start();
}
follow('ConfigMap', `/api/v1/namespaces/${namespace}/configmaps`, () =>
    core.listNamespacedConfigMap({ namespace, labelSelector }));
follow('Widget', `/apis/${group}/${version}/namespaces/${namespace}/${plural}`, () =>
    custom.listNamespacedCustomObject({ group, version, namespace, plural, labelSelector }));

process.on('SIGTERM', () => {
    for (const [kind, informer] of Object.entries(informers)) {
        for (const it of informer.list()) tell({ event: 'has', ...facts(kind, it) });
    }
    tell({ event: 'end' });
    process.exit(0);
});
