"""Every call of the service. To add one, define it in the file of its subject and name it in `Operations`."""

from facemargin.client.operations import comparing, enrolled, galleries, members, service, upgrades


class Operations:
    """The methods of both clients: on a `Client` they answer, on an `AsyncClient` they are awaited."""

    embed = comparing.embed
    verify = comparing.verify
    search = comparing.search
    search_embedding = comparing.search_embedding

    collections = galleries.collections
    collection = galleries.collection
    create_collection = galleries.create_collection
    delete_collection = galleries.delete_collection

    people = members.people
    people_page = members.people_page
    person = members.person
    add_person = members.add_person
    change_person = members.change_person
    export_person = members.export_person
    delete_person = members.delete_person

    faces = enrolled.faces
    enrol = enrolled.enrol
    enrol_embedding = enrolled.enrol_embedding
    delete_face = enrolled.delete_face

    upgrade = upgrades.upgrade
    begin_upgrade = upgrades.begin_upgrade
    send_again = upgrades.send_again
    send_embedding_again = upgrades.send_embedding_again
    switch_model = upgrades.switch_model
    roll_back_model = upgrades.roll_back_model
    finish_upgrade = upgrades.finish_upgrade

    models = service.models
    live = service.live
    ready = service.ready
    metrics = service.metrics


__all__ = ["Operations"]
